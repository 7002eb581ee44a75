"""What a hospital says of its worker and its machine, and what an older one does not say."""

import pytest

from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_server.fleet.caller import DOING_CHARACTERS, Told, read_doing
from polyclinic_server.service.snapshots import describe_hospitals
from tests.server.fleet.coordinators import Coordinator, until
from tests.server.fleet.thin_hospital import Ward

EARLIER = b"\x0a\x08training"  # as it was sent before there was a device


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (wire.Doing.FromString(EARLIER), Told("training")),
        (wire.Doing(text="training", device="H100", memory_bytes=80), Told("training", "H100", 80)),
        (wire.Doing(device="a", memory_bytes=2**64 - 1), Told("", "a")),
    ],
)
def test_what_is_said_is_bounded_and_clean(said: wire.Doing, told: Told) -> None:
    assert read_doing(said) == told


def test_no_sentence_is_longer_than_there_is_room_for() -> None:
    told = read_doing(wire.Doing(text="x" * 1000, device="y\n\x1b[31m" * 100))
    assert len(told.doing) == len(told.device) == DOING_CHARACTERS
    assert told.device.isprintable()


def test_the_machine_of_a_hospital_is_known(lab: Coordinator, ward: Ward) -> None:
    hospital = ward.hospital(lab.credentials("st-mary"))
    hospital.attend()
    hospital.say(doing=wire.Doing(text="waiting", device="4 cores", memory_bytes=2**33))

    def known() -> bool:
        (found,) = describe_hospitals(lab.server, (), 0.0)
        return found.device == "4 cores" and found.memory_bytes == 2**33

    until(known, lab.grid)

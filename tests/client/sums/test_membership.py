"""A hospital's ClientApp in secure sums, and a coordinator that lies to it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.errors import (
    CoordinatorContradicts,
    OfferInvalid,
    SummedBefore,
    SumRefused,
    TooFewInSum,
)
from polyclinic.federation.secure_sums.messages import (
    MaskQuestion,
    RevealQuestion,
    ShareQuestion,
    SurviveQuestion,
)
from polyclinic.federation.secure_sums.partners import Partners, keep_partners, read_partners
from polyclinic.federation.secure_sums.terms import Offer, Shares, Terms
from polyclinic_client.site.site import Site
from polyclinic_client.sums import membership
from polyclinic_client.sums.identity import identity_of

NAMES = ("north", "south", "west", "east")
TERMS = Terms("5e" * 16, 1.0, 24)


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Site]:
    made = {}
    for name in NAMES:
        (tmp_path / name).mkdir()
        made[name] = SimpleNamespace(name=name, state=tmp_path / name, kept={})
    return cast("dict[str, Site]", made)


def begin(sites: dict[str, Site], terms: Terms = TERMS, seed: int = 0) -> dict[str, Offer]:
    random = np.random.default_rng(seed)
    offers = {}
    for name, site in sites.items():
        prepared = membership.quantize(terms, random.normal(0, 0.1, 100).astype(np.float32))
        identity = identity_of({"site": name, "state": str(site.state)})
        offers[name] = membership.begin(site, identity, terms, prepared)
    return offers


def until_masked(
    sites: dict[str, Site], offers: dict[str, Offer], terms: Terms = TERMS
) -> Collector:
    collector = Collector(terms, 102)
    question = ShareQuestion.of(TERMS.session, collector.take_offers(offers))
    shared = {name: membership.share(sites[name], question) for name in offers}
    collector.take_shares(
        {
            name: Shares(dict(zip(each.sites, each.sealed, strict=True)), each.signature)
            for name, each in shared.items()
        }
    )
    for name in offers:
        sealed, signed = collector.shares_for(name)
        asked = MaskQuestion(
            TERMS.session, tuple(sealed), tuple(sealed.values()), tuple(signed.values())
        )
        collector.add(name, membership.mask(sites[name], asked))
    return collector


def finish(sites: dict[str, Site], collector: Collector) -> None:
    survivors = SurviveQuestion(TERMS.session, tuple(collector.survivors))
    signed = {
        name: membership.survive(sites[name], survivors).signature for name in collector.survivors
    }
    reveal = RevealQuestion(TERMS.session, tuple(signed), tuple(signed.values()))
    collector.take_revealed({name: shares_of(sites[name], reveal) for name in signed})
    collector.total()


def shares_of(site: Site, question: RevealQuestion) -> dict[str, bytes]:
    found = membership.reveal(site, question)
    return dict(zip(found.sites, found.shares, strict=True))


def test_an_update_goes_into_no_second_sum_with_other_hospitals(sites: dict[str, Site]) -> None:
    finish(sites, until_masked(sites, begin(sites)))
    finish(sites, until_masked(sites, begin(sites)))  # again with the same: tells nothing new
    fewer = {name: site for name, site in sites.items() if name != "east"}
    collector = until_masked(fewer, begin(fewer))
    with pytest.raises(SummedBefore, match="difference"):
        finish(fewer, collector)
    finish(fewer, until_masked(fewer, begin(fewer, seed=1)))  # another update


def test_a_noisy_update_goes_into_one_sum_alone(sites: dict[str, Site]) -> None:
    noisy = Terms(TERMS.session, 1.0, 24, norm=1.0, sigma=0.1)
    finish(sites, until_masked(sites, begin(sites, noisy), noisy))
    with pytest.raises(SummedBefore):
        finish(sites, until_masked(sites, begin(sites, noisy), noisy))


def test_a_lie_ends_the_sum_at_the_hospital(
    sites: dict[str, Site], caplog: pytest.LogCaptureFixture
) -> None:
    collector = until_masked(sites, begin(sites))
    everybody = SurviveQuestion(TERMS.session, tuple(collector.survivors))
    membership.survive(sites["north"], everybody)
    with pytest.raises(CoordinatorContradicts, match="differently"):
        membership.survive(
            sites["north"], SurviveQuestion(TERMS.session, ("north", "south", "west"))
        )
    assert "contradicts itself" in caplog.text  # the hospital's log names it
    with pytest.raises(SumRefused, match="no place"):  # and nothing more is answered
        membership.survive(sites["north"], everybody)
    with pytest.raises(SumRefused, match="no place"):
        membership.survive(sites["south"], SurviveQuestion("ab" * 16, ("south",)))


def test_keys_are_remembered_and_a_closed_list_accepts_nobody_new(
    sites: dict[str, Site],
) -> None:
    offers = begin(sites)
    question = ShareQuestion.of(TERMS.session, list(offers.values()))
    north = sites["north"]
    membership.share(north, question)
    known = read_partners(north.state)
    assert set(known.keys) == {"south", "west", "east"} and not known.closed

    (sites["south"].state / "identity" / "hospital.key").unlink()
    offers = begin(sites)  # south has another key now
    with pytest.raises(OfferInvalid, match="--forget south"):
        membership.share(north, ShareQuestion.of(TERMS.session, list(offers.values())))

    keys = {name: each for name, each in known.keys.items() if name != "south"}
    keep_partners(north.state, Partners(keys, closed=True))
    with pytest.raises(OfferInvalid, match="--accept south=SHA256:"):
        membership.share(north, ShareQuestion.of(TERMS.session, list(offers.values())))


def test_a_hospital_demands_more_partners_for_itself(sites: dict[str, Site]) -> None:
    keep_partners(sites["north"].state, Partners(least=5))
    question: Any = ShareQuestion.of(TERMS.session, list(begin(sites).values()))
    with pytest.raises(TooFewInSum, match="it needs 5"):
        membership.share(sites["north"], question)
    membership.share(sites["south"], question)

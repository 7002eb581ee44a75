"""Reasons why a hospital and a coordinator do not connect: one class for each.

Before a hospital joins, it makes a handshake: it checks the coordinator's certificate, then shows
its key and the name of its site. The side that refuses says why; each class has a sentence for
either side. The coordinator records every refusal in its journal.
"""

import json

from polyclinic.errors import LinkError
from polyclinic.system.text import clean, parse_json

HANDSHAKE = "/polyclinic.Door/Knock"
SITE_HEADER = "polyclinic-site"
# of a call to a service: see polyclinic.fleet.credentials
PUBLIC_KEY_HEADER = "flwr-public-key-bin"
SIGNATURE_HEADER = "flwr-signature-bin"
TIMESTAMP_HEADER = "flwr-timestamp"
MAX_FACT = 200  # characters of one fact on the wire


class AdmissionRefused(LinkError):
    """One side refuses the other; the subclass says why.

    Attributes:
        code: Name of the reason on the wire.
        hospital: Sentence for the hospital, with the remedy.
        coordinator: Sentence for the coordinator.
    """

    code = ""
    hospital = ""
    coordinator = ""

    def __init__(self, **facts: str) -> None:
        self.facts = {name: clean(fact)[:MAX_FACT] for name, fact in facts.items()}
        super().__init__(self.hospital.format(**self.facts))

    def told(self) -> str:
        """Return the sentence for the coordinator."""
        return self.coordinator.format(**self.facts)

    def pack(self) -> str:
        """Encode the reason and its facts for the wire."""
        return json.dumps({"polyclinic": self.code, **self.facts})


class KeyMissing(AdmissionRefused):
    """A caller showed no key."""

    code = "no-key"
    hospital = (
        "The coordinator asks for a key and none was shown. "
        "Join with the kit that it sent, and with the key that belongs to the kit."
    )
    coordinator = (
        "{who} showed no key and was refused. If it is a hospital, it must join with --kit."
    )


class KeyUnknown(AdmissionRefused):
    """A key was never enrolled."""

    code = "unknown-key"
    hospital = (
        "The coordinator does not know the key {key}. Send it hospital.pub (the public half), "
        "have it enrolled, and use the kit that comes back."
    )
    coordinator = (
        "A client showed the key {key}, which is not enrolled, and was refused. "
        "Enrol it: polyclinic-server enrol NAME hospital.pub"
    )


class KeyRevoked(AdmissionRefused):
    """A key was enrolled once and has been revoked."""

    code = "revoked-key"
    hospital = (
        "The coordinator has revoked the key of {site} ({key}). Ask it why; to come back, make a "
        "new key (polyclinic-client keygen --folder NEW) and have it enrolled."
    )
    coordinator = (
        "{site} showed its revoked key {key} and was refused. "
        "A new key of that hospital can be enrolled."
    )


class KeyOfAnother(AdmissionRefused):
    """A key is enrolled for another site."""

    code = "other-site"
    hospital = (
        "The key {key} is enrolled for another hospital than {claimed}. "
        "Use the kit and the key that belong together."
    )
    coordinator = (
        "{site} called itself {claimed}, showing the key {key} of {site}, and was refused."
    )


class SignatureInvalid(AdmissionRefused):
    """A caller shows a public key without having its private half."""

    code = "bad-signature"
    hospital = (
        "The coordinator could not verify this hospital's signature. "
        "Use the private key that belongs to the enrolled public key."
    )
    coordinator = "A client showed the key {key}, could not sign with it, and was refused."


class ClockWrong(AdmissionRefused):
    """The clocks of the two sides differ too much."""

    code = "clock"
    hospital = (
        "This machine's clock differs from the coordinator's by {seconds} s, which is too much. "
        "Set it, for example with NTP."
    )
    coordinator = (
        "The clock of a client with the key {key} is {seconds} s off; the client was refused. "
        "It must set its clock (NTP)."
    )


class KeyInUse(AdmissionRefused):
    """Another client is connected with the same key at this moment."""

    code = "key-in-use"
    hospital = (
        "Another client is connected with the key of {site} at this moment, and a key belongs to "
        "one client at a time. End the other one and join again. If you know of no other one, "
        "somebody else has this key: tell the coordinator to revoke it."
    )
    coordinator = (
        "A second client came with the key of {site} while the first was connected, and was "
        "refused. If {site} knows of one client only, revoke the key: polyclinic-server enrol "
        "revoke {site} --reason TEXT"
    )


class ProtocolRefused(AdmissionRefused):
    """The two sides speak no version of the protocol in common."""

    code = "protocol"
    hospital = (
        "The coordinator's polyclinic is {server}, this one is {client}, and the two do not "
        "understand each other. Install the coordinator's version."
    )
    coordinator = (
        "{site} came with polyclinic {client}, which this version ({server}) does not understand, "
        "and was refused. Both sides need versions that are close to each other."
    )


class AuthorityUnknown(AdmissionRefused):
    """The coordinator's certificate is not from the authority in the kit."""

    code = "wrong-ca"
    hospital = (
        "The certificate of {server} was not made by the coordinator that the kit belongs to. "
        "The kit may be old or from another federation: ask for a new one. If it is neither, "
        "somebody else may be answering there: do not go on."
    )
    coordinator = (
        "{who} does not trust this coordinator's certificate authority and left. "
        "Its kit is old or from another coordinator."
    )


class CertificateExpired(AdmissionRefused):
    """The coordinator's certificate has expired."""

    code = "expired-certificate"
    hospital = (
        "The certificate of {server} has expired. Ask the coordinator to run "
        "`polyclinic-server init --renew`; this kit stays valid."
    )
    coordinator = (
        "{who} left because the server's certificate has expired. "
        "Run: polyclinic-server init --renew"
    )


class HostNameWrong(AdmissionRefused):
    """The coordinator's certificate is for other host names."""

    code = "wrong-host"
    hospital = (
        "The certificate of {server} is not for that name. Use the address in the kit, or ask the "
        "coordinator to add this name: polyclinic-server init --renew --host NAME"
    )
    coordinator = (
        "{who} left because the server's certificate is not for the name that it dialled. "
        "Add the name: polyclinic-server init --renew --host NAME"
    )


class PlaintextRefused(AdmissionRefused):
    """A client speaks plain text to a server that speaks TLS."""

    code = "plaintext"
    hospital = (
        "{server} speaks TLS, and this client was told not to. "
        "Join with --kit FILE instead of --insecure."
    )
    coordinator = (
        "{who} spoke plain text to the TLS port and was refused. "
        "A hospital joins with --kit, without --insecure."
    )


class TlsMissing(AdmissionRefused):
    """A client speaks TLS to a server that speaks plain text."""

    code = "no-tls"
    hospital = (
        "{server} does not speak TLS, so nobody knows who answers there. "
        "A coordinator that hospitals can trust runs without --insecure."
    )
    coordinator = "{who} spoke TLS to a coordinator that was started with --insecure."


KEY_REASONS = (
    KeyMissing,
    KeyUnknown,
    KeyRevoked,
    KeyOfAnother,
    KeyInUse,
    SignatureInvalid,
    ClockWrong,
    ProtocolRefused,
)
TLS_REASONS = (AuthorityUnknown, CertificateExpired, HostNameWrong, PlaintextRefused, TlsMissing)
REASONS: dict[str, type[AdmissionRefused]] = {
    kind.code: kind for kind in (*KEY_REASONS, *TLS_REASONS)
}


def unpack_refusal(text: str) -> AdmissionRefused | None:
    """Decode a coordinator's refusal; None for any other text."""
    try:
        facts = parse_json(text)
        return REASONS[facts.pop("polyclinic")](
            **{str(name): str(fact) for name, fact in facts.items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None

"""Why a hospital and a coordinator do not come together: one class for each reason, with a sentence for either side.

A hospital knocks before it joins: it checks the coordinator's certificate, then shows its key and
says which site it is. Whoever refuses says why; the coordinator keeps a line of every refusal in
its journal.
"""

import json
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from polyclinic.errors import LinkError
from polyclinic.security.keys import PrivateKey, public_pem

KNOCK = "/polyclinic.Door/Knock"
SITE_HEADER = "polyclinic-site"
# Flower's
PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER = (
    "flwr-public-key-bin",
    "flwr-signature-bin",
    "flwr-timestamp",
)
MAX_FACT = 200  # characters of one fact that travels


class AdmissionRefused(LinkError):
    """The two do not come together. Subclasses say why, `code` names the reason on the wire."""

    code = ""
    hospital = ""  # what the hospital reads, with the remedy
    coordinator = ""  # what the coordinator reads

    def __init__(self, **facts: str) -> None:
        self.facts = {name: str(fact)[:MAX_FACT] for name, fact in facts.items()}
        super().__init__(self.hospital.format(**self.facts))

    def told(self) -> str:
        """The coordinator's sentence."""
        return self.coordinator.format(**self.facts)

    def pack(self) -> str:
        """For the wire."""
        return json.dumps({"polyclinic": self.code, **self.facts})


class KeyMissing(AdmissionRefused):
    """A caller that shows no key."""

    code = "no-key"
    hospital = "The coordinator asks for a key and none was shown. Join with the kit that it sent and the key it belongs to."
    coordinator = (
        "{who} showed no key and was turned away. If it is a hospital, it has to join with its kit."
    )


class KeyUnknown(AdmissionRefused):
    """A key that was never enrolled."""

    code = "unknown-key"
    hospital = (
        "The coordinator does not know the key {key}. Send it hospital.pub (the public half), have "
        "it enrolled, and use the kit that "
        "comes back."
    )
    coordinator = "A client showed the key {key}, which is not enrolled, and was turned away. Enrol it: polyclinic-server enrol NAME hospital.pub"


class KeyRevoked(AdmissionRefused):
    """A key that was enrolled once."""

    code = "revoked-key"
    hospital = (
        "The coordinator has revoked the key of {site} ({key}). Ask it why; to come back, make a "
        "new key "
        "(polyclinic-client keygen --folder NEW) and have it enrolled."
    )
    coordinator = "{site} showed its revoked key {key} and was turned away. A new key of that hospital can be enrolled."


class KeyOfAnother(AdmissionRefused):
    """A key that is enrolled for another site."""

    code = "other-site"
    hospital = "The key {key} is enrolled for another hospital than {claimed}. Use the kit and the key that belong together."
    coordinator = (
        "{site} called itself {claimed}, showing the key {key} of {site}, and was turned away."
    )


class SignatureInvalid(AdmissionRefused):
    """Somebody who shows a public key without having its private half."""

    code = "bad-signature"
    hospital = "The coordinator could not verify this hospital's signature. Use the private key that belongs to the enrolled public key."
    coordinator = (
        "A client showed the key {key} without being able to sign for it, and was turned away."
    )


class ClockWrong(AdmissionRefused):
    """Clocks that differ too much."""

    code = "clock"
    hospital = "This machine's clock differs from the coordinator's by {seconds} s, which is too much. Set it, for example with NTP."
    coordinator = "The clock of a client with the key {key} is {seconds} s off; it was turned away. It has to set its clock (NTP)."


class AuthorityUnknown(AdmissionRefused):
    """The coordinator's certificate is not of the authority in the kit."""

    code = "wrong-ca"
    hospital = (
        "The certificate of {server} was not made by the coordinator that the kit belongs to. The "
        "kit may be old or of another federation: "
        "ask for a new one. If it is not, somebody else may be answering there: do not go on."
    )
    coordinator = "{who} does not trust this coordinator's certificate authority and left. Its kit is old or of another coordinator."


class CertificateExpired(AdmissionRefused):
    """The coordinator's certificate is past its time."""

    code = "expired-certificate"
    hospital = "The certificate of {server} has expired. Ask the coordinator to run `polyclinic-server init --renew`; this kit stays good."
    coordinator = "{who} left because the server's certificate has expired. Run: polyclinic-server init --renew"


class HostNameWrong(AdmissionRefused):
    """The coordinator's certificate is for other names."""

    code = "wrong-host"
    hospital = (
        "The certificate of {server} is not for that name. Use the address in the kit, or ask the "
        "coordinator to add this name: "
        "polyclinic-server init --renew --host NAME"
    )
    coordinator = "{who} left because the server's certificate is not for the name it dialled. Add it: polyclinic-server init --renew --host NAME"


class PlaintextRefused(AdmissionRefused):
    """Plain text where TLS is spoken."""

    code = "plaintext"
    hospital = "{server} speaks TLS, and this client was told not to. Join with --kit FILE instead of --insecure."
    coordinator = "{who} spoke plain text to the TLS port and was turned away. A hospital joins with --kit, without --insecure."


class TlsMissing(AdmissionRefused):
    """TLS where plain text is spoken."""

    code = "no-tls"
    hospital = "{server} does not speak TLS, so nobody knows who answers there. A coordinator that hospitals can trust runs without --insecure."
    coordinator = "{who} spoke TLS to a coordinator that was started with --insecure."


REASONS: dict[str, type[AdmissionRefused]] = {
    kind.code: kind
    for kind in (
        KeyMissing, KeyUnknown, KeyRevoked, KeyOfAnother, SignatureInvalid, ClockWrong,
        AuthorityUnknown, CertificateExpired, HostNameWrong, PlaintextRefused, TlsMissing,
    )
}  # fmt: skip


def unpack_refusal(text: str) -> AdmissionRefused | None:
    """What a coordinator said, if it is one of its refusals."""
    try:
        facts = json.loads(text)
        return REASONS[facts.pop("polyclinic")](
            **{str(name): str(fact) for name, fact in facts.items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def credentials(key: PrivateKey, site: str = "") -> list[tuple[str, str | bytes]]:
    """gRPC metadata by which a hospital shows its key: as Flower's SuperNode does, and the site's name."""
    timestamp = datetime.now(UTC).isoformat()
    signature = key.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    found: list[tuple[str, str | bytes]] = [
        (PUBLIC_KEY_HEADER, public_pem(key.public_key())), (TIMESTAMP_HEADER, timestamp), (SIGNATURE_HEADER, signature),
    ]  # fmt: skip
    return [*found, (SITE_HEADER, site)] if site else found

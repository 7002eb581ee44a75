"""Why a page refuses a request: one class for each reason, with a line for the journal."""

from polyclinic.security.admission_errors import AdmissionRefused


class PageRefused(AdmissionRefused):
    """A request to the page was refused; the subclass says why.

    Attributes:
        status: Status of the answer in HTTP.
    """

    status = 403


class TokenMissing(PageRefused):
    """A request that needs the token came without it."""

    code = "page-no-token"
    status = 401
    hospital = "This needs the page's token: sign in with it."
    coordinator = "{who} asked the page for {what} without its token, and was refused."


class TokenWrong(PageRefused):
    """A request came with another token."""

    code = "page-wrong-token"
    status = 401
    hospital = "This is not the page's token."
    coordinator = "{who} showed a wrong token to the page ({what}), and was refused."


class CrossSite(PageRefused):
    """A request came from a page of somebody else."""

    code = "page-cross-site"
    hospital = "This request comes from another page, and is refused."
    coordinator = "A page of somebody else sent a request through {who} ({what}); it was refused."


class HostForeign(PageRefused):
    """A request named a host that is not this one, as one does after DNS rebinding."""

    code = "page-host"
    status = 421
    hospital = "This page is not served under that name."
    coordinator = "{who} asked the page under a name that is not its own ({what}); it was refused."

"""Third parties: HTTPS without a PEP, TLS that passes unread, TLS that nobody may open."""
import json

from ..acting import arrivals, curl, trust
from ..cast import Cast
from ..story import Story


def play(cast: Cast, story: Story) -> None:
    story.chapter("an HTTPS third party that has no PEP")
    answer = curl(cast, story, "https://api.partner.example/v1/rates", env=trust(cast))
    story.judge("third party over HTTPS", "200", answer.summary)
    seen = arrivals(cast.partner_log)
    story.show("what the third party saw", json.dumps(seen[-1]["headers"], indent=2) if seen else "")
    names = [name.lower() for request in seen for name in request["headers"]]
    story.judge("third party, at the target", "1 request, no envelope",
                f"{len(seen)} request, " + ("an envelope" if any(n.startswith("sae") for n in names)
                                            else "no envelope"))
    cast.third_party_decision = answer.headers.get("writ-decision", "")

    story.chapter("TLS that passes unread, and TLS that is refused")
    partner_ca = {"CURL_CA_BUNDLE": str(cast.pki / "ca.pem")}
    answer = curl(cast, story, "https://mirror.partner.example/file", env=partner_ca)
    story.judge("opaque TLS to a listed name", "200", answer.summary)
    answer = curl(cast, story, "https://legacy.partner.example/", env=partner_ca)
    story.judge("TLS to a name that refuses it", "curl exit 35", answer.summary)
    paths_seen = [request["path"] for request in arrivals(cast.partner_log)]
    story.judge("requests at the third party", "/v1/rates, /file", ", ".join(paths_seen))

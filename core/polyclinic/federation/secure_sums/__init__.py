"""Sums of hospitals' vectors that nobody can take apart.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
https://doi.org/10.1145/3133956.3133982, in its variant against an active server.

| step | a hospital sends | it goes on only if |
|---|---|---|
| offers | two fresh public keys, signed | |
| shares | encrypted shares of its two secrets, and its signature over the list of offers | every offer is signed by a hospital's own key, and there are enough |
| masked | its quantized vector plus masks | everybody signed the same list of offers |
| survivors | its signature over the list of those whose vectors arrived | it is one of them, and there are enough |
| unmask | for each hospital one share: of its self mask, or of its mask key if it dropped out | enough of them signed the same list |

`member.py` is a hospital's side, `collector.py` the coordinator's; both are pure. `messages.py`
puts what they exchange into Flower's messages, `exchange.py` asks the hospitals.
"""  # noqa: E501

"""A hospital's outbox: what it was asked for, and what it hands over, on its own disk.

    STATE/assignments/ID.json        what a run wants, as it last said, a file for each strategy
    STATE/bases/DIGEST.safetensors   the model to start from
    STATE/outbox/DIGEST.safetensors  a finished contribution, waiting to be handed over ...
    STATE/outbox/DIGEST.json         ... and what it was made for; the file needs it to count
    STATE/settled/DIGEST-LEDGER.json what the coordinator said of it: accepted, or refused and why;
                                     of the newest the file too, in case another ledger asks for the
                                     same
    STATE/failures/KEY.json          why training for an assignment failed; it is not tried again
                                     until something changes

Training writes here when it is done, the coordinator's question empties it, and neither waits for
the other. A contribution is forgotten once the coordinator has said what became of it, and the
coordinator says so when its ledger has it for good: whatever dies in between, the contribution
arrives, and counts once. Several runs may want contributions at the same time: each gets what was
made for it, and the work is done by turns.
"""

from polyclinic_client.site.outbox.assignments import Assignments
from polyclinic_client.site.outbox.outbox import REFINED, Outbox, Outcome, Ready

__all__ = ["REFINED", "Assignments", "Outbox", "Outcome", "Ready"]

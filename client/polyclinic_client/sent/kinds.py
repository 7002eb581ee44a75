"""Kinds of what leaves a hospital, and the words for them."""

from polyclinic.fleet.wire.fleet_pb2 import Envelope, FromHospital

# type of a question -> kind of its answer
ANSWERS = {
    "train": "update",
    "evaluate": "figures",
    "evaluate.score": "figures",
    "evaluate.test": "figures",
    "query.hello": "greeting",
    "query.collect": "contribution",
    "query.describe": "statistics",
    "query.base": "confirmation",
    "query.refined": "confirmation",
    "train.sum": "keys",
    "query.offer": "keys",
    "query.share": "shares",
    "query.mask": "masked update",
    "query.survive": "signature",
    "query.reveal": "shares",
}
FAULT, PROGRESS, REFUSAL = "fault", "progress", "refusal"
WORDS = {
    "update": "weights of the model after training here",
    "figures": "figures: scores, losses and numbers of cases",
    "greeting": "name, version and kind of images of this hospital, and its numbers of cases",
    "contribution": "how training here changed the model, its scores, and statistics if asked for",
    "keys": "keys for one secure sum, and figures of the training for it",
    "shares": "shares of the secrets of a secure sum, which take the masks off the sum alone",
    "masked update": "weights after training here, masked: of use in a sum alone",
    "signature": "signature over the names of those who are in a secure sum",
    PROGRESS: "whether a contribution is ready, and how far training is",
    "statistics": "means over the images of at least so many subjects as the policy says",
    "confirmation": "that a model arrived",
    REFUSAL: "name and version of this hospital, and why it takes no part in a run",
    FAULT: "that a question could not be answered, and why, without anything about files",
    "warped scan": "copy of a scan that was deformed, for a segmentation service",
    "hello": "name and version, when the line to the coordinator begins",
    "proof": "public key and signature, when the line to the coordinator begins",
    "receipt": "that a question arrived",
    "doing": "what the hospital's worker does, in a few words, and its GPU or number of cores",
    "goodbye": "that the client leaves",
    "fetch": "that a content of the coordinator's is wanted",
    "line": "numbered heartbeats since the line began: nothing but a count",
    "mended": "nothing: the end of the journal was torn by a crash and was cut off",
}
# what only keeps the line up, and holds nothing of images, labels or training
SIGNALS = ("hello", "proof", "receipt", "doing", "goodbye", "fetch", "line", "mended")
FRAMES = {"received": "receipt"}  # frame -> kind, where they differ


def kind_of_frame(frame: FromHospital) -> str:
    """Return the kind of a frame that is no reply."""
    name = str(frame.WhichOneof("frame") or "empty")
    return FRAMES.get(name, name)


def kind_of_reply(question_type: str, reply: Envelope) -> str:
    """Return the kind of an answer.

    Args:
        question_type: Type of the question's message.
        reply: The answer.
    """
    if reply.WhichOneof("body") != "content":
        return FAULT
    kind = ANSWERS.get(question_type, question_type[:200] or "answer")
    if kind == "contribution" and not _hands_over(reply):
        return PROGRESS
    if kind == "keys" and _hands_over(reply):  # a sum without masks
        return "update"
    return REFUSAL if kind == "greeting" and _refuses(reply) else kind


def _hands_over(reply: Envelope) -> bool:
    """Tell whether an answer to `query.collect` holds a contribution."""
    return any(
        record.arrays.entries or any(entry.name == "file" for entry in record.config.entries)
        for record in reply.content.records
    )


def _refuses(reply: Envelope) -> bool:
    """Tell whether an answer to a greeting says that the hospital takes no part, and no more."""
    entries = [entry for record in reply.content.records for entry in record.config.entries]
    told = {entry.name: entry.text for entry in entries}
    return bool(told.get("refusal")) and not any(name.startswith("count.") for name in told)

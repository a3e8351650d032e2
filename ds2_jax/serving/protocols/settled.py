"""Text that is sent while it is recognised: only what will not change."""

from ds2_jax.recognition.stream import Partial, Segment, join_texts


class SettledText:
    """The settled text of an utterance, which may consist of several segments. The returned pieces, joined, are its text."""

    def __init__(self) -> None:
        self.text = ""  # of the segments that have ended
        self._sent = ""

    def add_partial(self, partial: Partial) -> str:
        """Return the text that has settled since the last call; '' for none."""
        end = 0
        for word in partial.words[: partial.settled]:
            end = partial.text.index(word.text, end) + len(word.text)
        return self._grow(join_texts([self.text, partial.text[:end]]))

    def add_final(self, segment: Segment) -> str:
        """Return the rest of the text of a segment."""
        self.text = join_texts([self.text, segment.text])
        return self._grow(self.text)

    def _grow(self, text: str) -> str:
        if len(text) <= len(self._sent) or not text.startswith(self._sent):
            return ""
        piece, self._sent = text[len(self._sent) :], text
        return piece

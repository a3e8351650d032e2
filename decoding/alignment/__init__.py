"""Align audio with a known text: from the output of a network and the words to their times, and to utterances."""

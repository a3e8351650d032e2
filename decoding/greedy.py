from dataclasses import dataclass
@dataclass
class Hypothesis:
    text: str
def decode(ids, probabilities, vocabulary, frame_s):
    out, last = [], 0
    for i in ids:
        if i != last and i: out.append(i)
        last = i
    return Hypothesis(vocabulary.decode(out))

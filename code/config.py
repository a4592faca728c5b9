"""Every setting: one `Config` per experiment, the experiments, and the profiles that override them.

Nothing else in the project holds a number to be tuned; what makes a layer or a feature the
published one stands where it is made. The defaults below are the published ones, but for
`precision`; a profile is a table of overrides of what an experiment leaves at its default, and
chooses no other code path.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

STEMS = ("plain", "msc")
POOLINGS = ("max", "ave", "avemax1", "avemax2", "avemax3", "avemax4", "conv", "none")
FRONT_ENDS = ("waveform", "logmel")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; others are lies, and costly to resample
POSITIVE = (
    *("crop_samples", "n_hop", "power_melgram", "w_ratio", "gru_units"),
    *("batch_size", "learning_rate", "stacker_learning_rate", "stacker_batch_size"),
    "stacker_epochs",
)


class _Checked:
    """ValueError for the first rule, (setting, does it hold, what is expected), that does not."""

    def __post_init__(self):
        for name, holds, expected in self._rules():
            if not holds:
                raise ValueError(f"{name} must be {expected}; got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Schedule(_Checked):
    """How long one network is trained, and which of its epochs is kept.

    Epochs count from 0. The learning rate is halved at each milestone; mixup is applied before the
    first one only (without any, in all epochs). The best-scoring epoch from `keep_from` on is kept.
    From epoch `stop_from` on training ends once the best epoch lies more than `patience` back. The
    loss is cross-entropy, or, with a `loss_q` above 0 and up to 1, the Lq loss, which believes
    doubtful labels less.
    """

    epochs: int
    milestones: tuple[int, ...]
    mixup_prob: float
    keep_from: int = 0
    stop_from: int | None = None
    patience: int = 10
    loss_q: float | None = None

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        yield "epochs", self.epochs > 0, "above 0"
        yield "keep_from", 0 <= self.keep_from < self.epochs, f"one of {self.epochs} epochs, from 0"
        yield "milestones", min(self.milestones, default=0) >= 0, "0 or more, each"
        yield "mixup_prob", 0 <= self.mixup_prob <= 1, "0 to 1"
        yield "patience", self.patience >= 0, "0 or more"
        yield "loss_q", self.loss_q is None or 0 < self.loss_q <= 1, "above 0 and at most 1"

    @property
    def mixup_until(self) -> int:
        """The first epoch without mixup."""
        return min(self.milestones, default=self.epochs)


@dataclass(frozen=True)
class Config(_Checked):
    """One experiment: front end, network, augmentation and schedules. Defaults are `v1mix`."""

    name: str = "v1mix"
    pretrained_by: str = "v1mix"  # the experiment whose pretraining this one starts from
    stack_weight: float = 1.0  # weight in the average that the stacker starts from

    # Audio and log-mel front end
    sample_rate: int = 44100  # Hz
    crop_samples: int = 220_500  # 5 s
    n_dft: int = 1024  # samples
    n_hop: int = 500  # samples; 441 frames in 5 s (the released code's 512 gives 431)
    n_mels: int = 64
    fmin: float = 0.0  # Hz, lowest frequency of the mel bands
    fmax: float | None = None  # Hz, the highest; None: half the sample rate
    htk: bool = False  # HTK's mel scale instead of Slaney's
    norm: str | None = "slaney"  # mel bands of equal area; None: of height 1
    power_melgram: float = 2.0  # 2: mel power, 1: its root
    return_decibel_melgram: bool = True  # else mel power itself
    trainable_kernel: bool = False  # the DFT is learned
    trainable_fb: bool = False  # the mel bands are learned
    frontend: str = "waveform"  # or "logmel": start from the log-mels that preprocess.py stored

    # Network
    stem: str = "plain"  # or "msc": 3x3, 5x5 and 7x7 convolutions side by side
    squeeze_excite: bool = False
    cat: bool = False  # highway and 1x1 convolution in every block
    pooling: tuple[str, str] = ("max", "avemax1")  # after a block's first and second unit
    stem_filters: int = 64
    block_filters: tuple[int, ...] = (96, 128, 256, 512)
    w_ratio: float = 1.0  # scales block_filters, not the stem
    gru_units: int = 128
    global_features: bool = True  # does the head see what the GRUs found in them?
    clip_length: bool = True  # and the length of the clip?
    n_views: int = 3  # that scores are the mean of; 1: the middle of the clip

    # Training examples
    label_smoothing: float = 0.01
    mixup_rate: float = 0.7
    mixup_beta: float | None = None  # b: the rate is drawn from Beta(b, b), as Zhang et al. do
    # SpecAugment: so many frames and mel bands at most are silenced in each crop, in one piece.
    masked_frames: int = 0
    masked_mels: int = 0

    # Optimisation
    batch_size: int = 32
    learning_rate: float = 5e-4
    schedule_decay: float = 0.004  # of Nadam: Keras 2's default; 1 is Keras 3's optimiser
    pretraining: Schedule = Schedule(35, milestones=(8, 12, 16), mixup_prob=0.7, keep_from=28)
    training: Schedule = Schedule(40, milestones=(14, 21, 28), mixup_prob=0.6, stop_from=35)

    # "auto": the fastest that the hardware multiplies. Or "float32", "bfloat16", "float16".
    precision: str = "auto"

    # Folds and chance
    n_folds: int = 10
    fold_seed: int = 66666
    seed: int = 2019  # every random choice derives from (seed, experiment, fold, epoch)

    # Stacker
    stacker_learning_rate: float = 1e-4
    stacker_batch_size: int = 40
    stacker_epochs: int = 1000
    stacker_patience: int = 15

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        for name in POSITIVE:
            yield name, 0 < getattr(self, name) < math.inf, "above 0"
        for name in ("label_smoothing", "mixup_rate"):
            yield name, 0 <= getattr(self, name) <= 1, "0 to 1"
        for name in ("schedule_decay", "seed", "stacker_patience"):
            yield name, 0 <= getattr(self, name) < math.inf, "0 or more"
        for name, values in (("stem", STEMS), ("precision", PRECISIONS), ("frontend", FRONT_ENDS)):
            yield name, getattr(self, name) in values, f"one of {', '.join(values)}"
        yield "pooling", {*self.pooling} <= {*POOLINGS}, f"two of {', '.join(POOLINGS)}"
        yield "n_views", self.n_views in (1, 3), "1 or 3"
        yield "n_folds", self.n_folds >= 2, "2 or more"
        yield "fold_seed", 0 <= self.fold_seed < 2**32, "0 or more and below 2^32"
        beta = self.mixup_beta
        yield "mixup_beta", beta is None or 0 < beta < math.inf, "above 0"

        rates = f"{LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz"
        yield "sample_rate", LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE, rates
        yield "n_dft", self.n_dft > 0 and self.n_dft % 2 == 0, "an even number above 0"
        halved = -(-self.n_mels // 8) if self.pooling[1] != "none" else self.n_mels
        even = "an even number when poolings have halved it, as multiples of 16 are"
        yield "n_mels", halved > 0 and halved % 2 == 0, even
        nyquist = self.sample_rate / 2
        highest = nyquist if self.fmax is None else self.fmax
        lowest = f"at least 0 and below fmax, here {highest:g} Hz"
        yield "fmin", 0 <= self.fmin < highest, lowest
        yield "fmax", highest <= nyquist, f"at most {nyquist:g} Hz, half the sample rate"
        yield "norm", self.norm in ("slaney", None), "'slaney' or None"

        least = 4 if self.squeeze_excite else 1  # which has a quarter of them
        filters = self.scaled_block_filters
        four = f"four numbers that are {least} or more, times w_ratio"
        yield "block_filters", len(filters) == 4 and min(filters) >= least, four
        # "msc" has half of them at each of three scales: of a single one, none.
        yield "stem_filters", self.stem_channels >= least, "more"

        waveform = self.frontend == "waveform"
        published = self.power_melgram == 2.0 and self.return_decibel_melgram
        # Stored are decibels of mel powers, which nothing is learned of.
        other = "'waveform' with a trainable front end, another power, or without decibels"
        yield "frontend", waveform or (published and not self.trains_front_end), other
        masked = self.masked_frames or self.masked_mels
        yield "frontend", not (waveform and masked), "'logmel' with masked_frames or masked_mels"
        for name, n in (("masked_frames", self.crop_frames), ("masked_mels", self.n_mels)):
            yield name, 0 <= getattr(self, name) <= n, f"0 to {n}, which there are"

    @property
    def trains_front_end(self) -> bool:
        """Are there no log-mels but those of the network itself?"""
        return self.trainable_kernel or self.trainable_fb

    @property
    def learned_pooling(self) -> tuple[bool, ...]:
        """Which of its poolings have weights?"""
        return tuple(mode == "conv" for mode in self.pooling)

    def values(self, names: tuple[str, ...]) -> dict:
        """Some settings, such as `TRAINING_SETTINGS`, with their values."""
        return {name: getattr(self, name) for name in names}

    @property
    def crop_frames(self) -> int:
        """Log-mel frames in one crop: ceil(crop_samples / n_hop), as 'same' convolution gives."""
        return -(-self.crop_samples // self.n_hop)

    @property
    def stem_channels(self) -> int:
        """Of the stem's output: half of `stem_filters` at each of the three scales of "msc"."""
        return self.stem_filters // 2 * 3 if self.stem == "msc" else self.stem_filters

    @property
    def scaled_block_filters(self) -> tuple[int, ...]:
        return tuple(int(filters * self.w_ratio) for filters in self.block_filters)


EXPERIMENTS = {
    config.name: config
    for config in (
        Config("v1mix", stack_weight=2.1),
        Config("max3exam", stack_weight=1.9, pooling=("max", "avemax3")),
        *(
            Config(f"msc_{w}", pretrained_by=f"msc_{w}", stem="msc", squeeze_excite=True, w_ratio=w)
            for w in (1.0, 2.0, 1.5)
        ),
        Config("se", pretrained_by="se", stack_weight=0.0, squeeze_excite=True),
        Config("cat", pretrained_by="cat", cat=True),
        Config("se_cat", pretrained_by="se_cat", squeeze_excite=True, cat=True),
    )
}


@dataclass(frozen=True)
class Profile:
    """The experiments that run by default, and what differs from the published settings."""

    experiments: tuple[str, ...]
    overrides: dict


# Channel counts are multiples of 16: others fall off the fast path of the CPU kernels. A hop of
# 1000 halves the frames, and with them the work.
_SMALL = {
    "n_hop": 1000,
    "stem_filters": 16,
    "block_filters": (16, 48, 96, 192),
    "gru_units": 64,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "n_folds": 3,
    "pretraining": Schedule(12, milestones=(6, 8, 10), mixup_prob=0.7, keep_from=10),
    "training": Schedule(20, milestones=(10, 14, 17), mixup_prob=0.6),
}

PROFILES = {
    # `cat` and `se_cat` are not in the published ensemble.
    "published": Profile(("msc_1.0", "max3exam", "v1mix", "msc_2.0", "msc_1.5", "se"), {}),
    # Real data on a laptop without a GPU.
    "small": Profile(("v1mix", "max3exam"), _SMALL),
    # The same networks, not as published: twice the epochs, and mixup in most of them. Better on
    # orchestra clips, not shown to be on ESC-10 (tests/README.md).
    "best": Profile(
        ("v1mix", "max3exam"),
        {
            **_SMALL,
            "frontend": "logmel",
            "pretraining": Schedule(24, milestones=(18, 20, 22), mixup_prob=0.7, keep_from=20),
            "training": Schedule(40, milestones=(32, 35, 38), mixup_prob=0.6),
        },
    ),
    # The synthetic clips, in minutes: 3 s crops, the narrowest network that still learns them.
    "demo": Profile(
        ("v1mix", "max3exam"),
        {
            "crop_samples": 132_300,
            "n_hop": 1000,
            "stem_filters": 16,
            "block_filters": (16, 32, 48, 64),
            "gru_units": 32,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "n_folds": 2,
            "pretraining": Schedule(4, milestones=(2, 3), mixup_prob=0.7, keep_from=3),
            "training": Schedule(7, milestones=(4, 5, 6), mixup_prob=0.6),
        },
    ),
}


def experiments(
    profile: str, names: list[str] | None = None, settings: dict | None = None
) -> list[Config]:
    """The configurations to run: those named, or the profile's own, with its overrides applied.

    What an experiment sets otherwise than published counts before the profile, and `settings`, as
    of `overridden`, before both.

    KeyError if the profile or an experiment does not exist, ValueError if settings are impossible.
    """
    chosen, published, found = PROFILES[profile], Config(), []
    for own in (EXPERIMENTS[name] for name in names or chosen.experiments):
        left = [name for name in chosen.overrides if getattr(own, name) == getattr(published, name)]
        profiled = replace(own, **{name: chosen.overrides[name] for name in left})
        found.append(overridden(profiled, settings or {}))
    return found


def overridden(config: Config | Schedule, settings: dict) -> Config | Schedule:
    """With other settings, as JSON has them: a schedule's own ones are `{"training": {...}}`.

    TypeError if `Config` or `Schedule` has no such setting, ValueError if one is impossible.
    """
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    for name in ("pretraining", "training"):
        if name in values:
            try:
                values[name] = overridden(getattr(config, name), values[name])
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from error
    return replace(config, **values)


# What results depend on.
PREPROCESSING_SETTINGS = ("sample_rate",)
FRONT_END_SETTINGS = (  # the arguments of `logmel.log_mel`
    *("sample_rate", "n_dft", "n_hop", "n_mels", "fmin", "fmax", "htk", "norm"),
    *("power_melgram", "return_decibel_melgram"),
)
VIEW_SETTINGS = (*FRONT_END_SETTINGS, "frontend", "crop_samples", "n_views")
PRETRAINED_SETTINGS = (  # of what pretrained weights are, and were trained for
    *(*FRONT_END_SETTINGS, "trainable_kernel", "trainable_fb", "stem", "squeeze_excite", "cat"),
    *("learned_pooling", "stem_filters", "block_filters", "w_ratio", "gru_units"),
)
_FOLDS = ("n_folds", "fold_seed")
_STACKER = tuple(field.name for field in fields(Config) if field.name.startswith("stacker_"))
STACKING_SETTINGS = (*_FOLDS, "seed", *_STACKER)
# What experiments share that are in one output folder.
COMMON_SETTINGS = (*PREPROCESSING_SETTINGS, *_FOLDS, *_STACKER)
# What a trained network depends on: all but the stacker's settings and what is known otherwise
# (the fold table, the weights it starts from, its own schedule).
TRAINING_SETTINGS = tuple(
    field.name
    for field in fields(Config)
    if not field.name.startswith("stack")
    and field.name not in (*_FOLDS, "pretrained_by", "pretraining", "training")
)

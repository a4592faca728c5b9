"""The page: one file with all that it shows, which asks for nothing else."""

from pathlib import Path

import jinja2
import markupsafe
import numpy as np
from plotly.offline import get_plotlyjs

from clips.store import Clips
from config import FRONT_END_SETTINGS, Config
from messages import percent
from review import media
from review.findings import Scored
from solution import logmel

SECONDS = 10  # of a clip that can be heard
TOP = 5
GROUPS = {
    "surest": "surest and wrong",
    "curated": "likely wrong label, curated",
    "noisy": "likely wrong label, noisy",
    "hardest": "hardest of its class",
}


def card(scored: Scored, row: int, why: dict, store: Clips, rate: int, classes: list) -> dict:
    """What is shown of a clip; only what can be heard of it is read from its store.

    why : by group, as `findings.remarkable` gives it
    rate : sample rate, Hz
    """
    clip = int(scored.clips[row])
    n_samples = int(store.n_samples[clip])
    n_heard = min(n_samples, SECONDS * rate)
    waveform = store.waveform(clip, 0, n_heard)
    front_end = Config(sample_rate=rate).values(FRONT_END_SETTINGS)  # the published one
    truth, probabilities = scored.truth[row] > 0, scored.probabilities[row]
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    return {
        "fname": scored.fnames[row],
        "split": scored.split,
        "why": why,
        "seconds": n_samples / rate,  # all of it
        "heard": n_heard / rate,  # seconds from its start that can be
        "time_ticks": media.time_ticks(n_heard / rate),
        "sound": media.sound(waveform, rate),  # URI, as is the picture
        "picture": media.picture(logmel.log_mel(waveform, **front_end)),
        "labels": [classes[i] for i in np.flatnonzero(truth)],
        "tags": [(classes[i], float(probabilities[i]), bool(truth[i])) for i in best],
    }


def render(**shown) -> str:
    """The page as text; every name in it is escaped, whatever it holds."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    plotly = markupsafe.Markup(get_plotlyjs())
    return environment.get_template("page.html").render(plotly=plotly, groups=GROUPS, **shown)

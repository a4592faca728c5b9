"""Sound as programs write it."""

import io

import av
import numpy as np

RATE = 44100


def tone(seconds=0.5, rate=RATE, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def encoded(format="mp4", codec="aac", rate=RATE, channels=1, seconds=0.5, picture=False):
    """A tone as FFmpeg writes it; with `picture`, as the sound of a video."""
    stream, layout = io.BytesIO(), {1: "mono", 2: "stereo", 8: "7.1"}[channels]
    sound = np.repeat(tone(seconds, rate).astype(np.float32), channels)[None]
    with av.open(stream, "w", format=format) as container:
        if picture:
            video = container.add_stream("mpeg4", rate=25)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        audio = container.add_stream(codec, rate=rate)
        audio.layout = layout
        audio.bit_rate = 12_200 if "amr" in codec else 64_000
        frame = av.AudioFrame.from_ndarray(sound, "flt", layout)
        frame.sample_rate = rate
        if picture:
            pixels = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(video.encode(pixels) + video.encode())
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return stream.getvalue()

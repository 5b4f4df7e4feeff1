"""`facestream models add`: adds a user's own embedder as a generation, with its file in the object store."""

import argparse
import hashlib
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from facestream.admin.generation_changes import check_generation_name
from facestream.flags import STORES, add_settings, argument_type, parse_path, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import print_message
from schemas.errors import ConfigurationError, InvalidRequest
from schemas.generation_records import Generation, OnnxEmbedder
from stream.generations import Generations, generation_record
from stream.topics import TOPICS
from weights.manifest import manifest

if TYPE_CHECKING:
    from facestream.admin.onnx_trial import OnnxTrial

DESCRIPTION = """\
Add an embedder of your own: an ONNX file that computes a vector of any length from the picture of an upright
face. It is tried first, on drawn faces or on a photo of yours. Then its file is put into the object store,
where every processor reads it. Answers do not change until you activate it.

A network like ArcFace (insightface, AdaFace, MagFace) takes 112 pixels, with the eyes where ArcFace has them,
and values from -1 to 1:

  facestream models add mine model.onnx --input 112 --template arcface --range -1..1 --try portrait.jpg
  facestream reembed mine
  facestream models activate mine

Give it the pixels that it was trained with. --range says what the pixel values 0 and 255 become: (x - 127.5) /
127.5 is -1..1, x / 255 is 0..1, and 0..255 leaves them as they are. --channels bgr is for networks that were
trained on pictures as OpenCV reads them. With wrong values the network runs as well, but recognizes nobody: the
trial shows this as far as one picture can, `facestream models compare` measures it.

The file has one input (batch, 3, SIDE, SIDE), one output (batch, dimension), and its weights inside. A batch
fixed at 1 works, a free one is faster. It needs ONNX Runtime, here and where processors run: pip install
'facestream[onnx]'.
"""
OBJECT_KEY = "models/{}.onnx"


def add_parser(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "add",
        help="add an embedder of your own, an ONNX file",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # argparse would take -1..1 for a flag: by default it accepts only plain negative numbers as values
    parser._negative_number_matcher = re.compile(r"-[\d.]")
    parser.add_argument(
        "name", metavar="NAME", help="name of the new generation: a-z, 0-9, '.', '_', '-'; a name is used once only"
    )
    parser.add_argument("file", metavar="FILE.onnx", type=argument_type("FILE.onnx", parse_path), help="the network")
    parser.add_argument(
        "--input", metavar="SIDE", type=int, required=True, help="side of the network's input in pixels"
    )
    parser.add_argument(
        "--template",
        required=True,
        metavar="arcface|dlib",
        help="where eyes, nose and mouth lie in the picture; other sizes than 112 and 150 show the same square",
    )
    parser.add_argument(
        "--range", metavar="LOW..HIGH", required=True, help="what the pixel values 0 and 255 become, as in -1..1"
    )
    parser.add_argument("--channels", choices=("rgb", "bgr"), default="rgb", help="order of the colours (default: rgb)")
    parser.add_argument(
        "--mirror", action="store_true", help="average with the mirrored face: more accurate, half as fast"
    )
    parser.add_argument(
        "--metric", choices=("cosine",), default="cosine", help="how vectors are compared (default: cosine)"
    )
    parser.add_argument(
        "--try",
        dest="picture",
        metavar="PICTURE",
        type=argument_type("--try", parse_path),
        help="a photo to try it on, with one face or, better, two",
    )
    parser.add_argument("--json", action="store_true", help="the trial and the generation as one JSON object")
    add_settings(parser, (*STORES, "weights", "device"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptibly(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    content = _read(arguments.file)
    picture = None if arguments.picture is None else _read(arguments.picture)
    async with open_stores(settings) as stores:
        await stores.log.require_topics(TOPICS)
        async with follow_state(stores.log) as state:
            generation = _make_generation(arguments, content, state.generations.active.detector)
            _check_new(generation.name, state.generations)
            from facestream.admin.onnx_trial import try_network  # torch is slow to import

            trial = await try_network(settings, content, generation, picture)
            if not arguments.json:
                _print_trial(trial)
            if trial.same <= trial.other:
                print_message(
                    "the same face is no more similar than another face: do --range, --channels and --template"
                    " match its training?"
                )
            await state.generations.refresh()
            _check_new(generation.name, state.generations)
            assert generation.onnx is not None
            await stores.objects.put(generation.onnx.object_key, content)
            await stores.log.append([generation_record(generation.model_copy(update={"dimension": trial.dimension}))])
    if arguments.json:
        print(json.dumps({"name": generation.name, "sha256": generation.onnx.sha256, **asdict(trial)}))
    else:
        print(f"'{generation.name}' is added (sha256 {generation.onnx.sha256})")
        print(f"next: facestream reembed {generation.name}")
    return 0


def _print_trial(trial: "OnnxTrial") -> None:
    print(f"{trial.dimension} numbers a face")
    print(f"{trial.alone_ms:.1f} ms a face alone, {trial.together_ms:.1f} ms of several at once ({trial.device})")
    print(f"similarity: {trial.same:.3f} the same face cut twice, {trial.other:.3f} another face")


def _make_generation(arguments: argparse.Namespace, content: bytes, detector: str) -> Generation:
    """The generation, with a dimension of 1 until the trial has measured it. Raises ConfigurationError."""
    from processors.align import TEMPLATES  # torch, as above

    name = check_generation_name(arguments.name)
    if arguments.template not in TEMPLATES:
        raise ConfigurationError(f"--template {arguments.template}: it is one of {', '.join(TEMPLATES)}")
    low, high = _parse_range(arguments.range)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        onnx = OnnxEmbedder(
            object_key=OBJECT_KEY.format(sha256),
            sha256=sha256,
            side=arguments.input,
            channels=arguments.channels,
            scale=(high - low) / 255,
            offset=low,
        )
    except ValidationError:
        raise ConfigurationError(f"--input {arguments.input}: the side is 16 to 1024 pixels") from None
    return Generation(
        name=name,
        state="added",
        detector=detector,
        embedder=name,
        mirror=arguments.mirror,
        template=f"{arguments.template}-{arguments.input}",
        dimension=1,
        metric=arguments.metric,
        onnx=onnx,
    )


def _parse_range(text: str) -> tuple[float, float]:
    """Raises ConfigurationError."""
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        low = high = math.nan
    if not 0 < high - low < math.inf:
        raise ConfigurationError(
            f"--range {text}: give what the pixel values 0 and 255 become, as in -1..1, 0..1 or 0..255"
        )
    return low, high


def _check_new(name: str, generations: Generations) -> None:
    """Raises InvalidRequest."""
    used = {it.name: it.state for it in generations.all}
    if name in used or name in manifest().generations:
        what = f"there ({used[name]})" if name in used else "a shipped one"
        raise InvalidRequest(f"generation '{name}' is {what}, and no name is used twice: choose another, '{name}-2'")


def _read(path: Path) -> bytes:
    """Raises ConfigurationError."""
    from processors.onnx_embedder import LARGEST_FILE  # torch, as above

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigurationError(f"{path} has more than {LARGEST_FILE:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None

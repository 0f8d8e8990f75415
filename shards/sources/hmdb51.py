"""HMDB51: 6,766 clips of 51 actions (Kuehne et al., ICCV 2011).

Published at serre-lab.clps.brown.edu: <class>/<name>.avi, and three splits with a file for each class,
<class>_test_split<N>.txt with lines "name.avi 1" (1 train, 2 test, 0 not used). IIC and others hand the splits round in
the form of UCF101. The name holds the class (..._<class>_<visible part>_...), so names differ between classes; it may
hold any sign but a slash, such as & ( # ; and !.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...core.errors import UsageError
from .action_lists import SPLIT_LIST, ActionLists
from .annotation_files import LineReport
from .dataset import DataSet, VideoFile, account, identify, scan, without_extension
from .inputs import Found, SourceOptions

_CLASS_SPLIT = re.compile(r"(.+)_test_split([123])\.txt", re.I)
_NAMES = r"[^/]+_test_split[123]\.txt|(?:train|test)list0?[123]\.txt|classind\.txt"
_PARTS = {"0": "unused", "1": "train", "2": "test"}
_NAME = re.compile(r".+_[a-z]_[a-z]{2}_np\d+_[a-z]{2}_[a-z]{3}_\d+", re.DOTALL)


def _id_text(video: VideoFile) -> str:
    named = _NAME.fullmatch(video.stem) or (video.folders and video.folders[-1] in video.stem)
    return video.stem if named else ""


HMDB51 = DataSet(
    layout="hmdb51",
    tree="<class>/<name>.avi, <class>_test_split{1,2,3}.txt (or classInd.txt, trainlist0N.txt, testlist0N.txt)",
    usual=re.compile(f"(?:.*/)?(?:{_NAMES})", re.I),
    names=re.compile(_NAMES, re.I),
    normal_id=lambda text: text.rpartition("/")[2] or None,
    id_text=_id_text,
)


def find_hmdb51(source: Path, options: SourceOptions) -> Found:
    """The clips; missing is what a split names and no file bears.

    Raises:
        UsageError: the folder or a list is not what it should be.
    """
    found = scan(source, HMDB51, options)
    files = identify(found, options)
    lists = ActionLists()
    for path in found.annotations:
        if path.name.lower() == "classind.txt":
            lists.read_classes(path)
        elif match := _CLASS_SPLIT.fullmatch(path.name):
            _read_class_split(path, match[1], match[2], lists)
        elif SPLIT_LIST.fullmatch(path.name):
            lists.read_split(path, lambda label, name: name or None)
        else:
            raise UsageError(
                f"annotations: {path} is none of <class>_test_split<N>.txt, classInd.txt, trainlist0N.txt and "
                "testlist0N.txt"
            )
    result = Found(account(found, files, lists.named, options), found.ignored)
    more = {
        video_id: {"label": video.folders[-1]}
        for video_id, video in files
        if video.folders and video_id not in lists.videos
    }
    ids = list(dict.fromkeys([*lists.videos, *(one.stem_id for one in result.candidates)]))
    result.tables["videos"] = lists.table(ids, more)
    return result


def _read_class_split(path: Path, label: str, split: str, lists: ActionLists) -> None:
    report = LineReport(path, "<name>.avi <0|1|2>")
    for number, line in report.lines():
        *name, part = line.rsplit(maxsplit=1)
        if name and part in _PARTS:
            lists.add(without_extension(name[0]), label, f"split{split}", _PARTS[part], path)
        else:
            report.drop(number, line)
    report.close()

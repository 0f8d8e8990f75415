"""UCF101: 13,320 clips of 101 actions (Soomro, Zamir and Shah, 2012).

Published at www.crcv.ucf.edu/data/UCF101.php: UCF-101/<Class>/v_<Class>_g<group>_c<clip>.avi, and the splits for action
recognition, ucfTrainTestlist.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...core.errors import UsageError
from .action_lists import SPLIT_LIST, ActionLists
from .dataset import DataSet, account, identify, scan, without_extension
from .inputs import Found, SourceOptions

_ID = re.compile(r"v_([A-Za-z]+)_(g\d\d)_(c\d\d)")
_NAMES = r"(?:train|test)list0?[123]\.txt|classind\.txt"


def _ucf_id(text: str) -> str | None:
    """The published file's name, also of ``Class/name``.

    The folder, classInd.txt and copies of the set say HandstandPushups, the published files v_HandStandPushups_...
    """
    name = without_extension(text.rpartition("/")[2]).replace("HandstandPushups", "HandStandPushups")
    return name if _ID.fullmatch(name) else None


UCF101 = DataSet(
    layout="ucf101",
    tree="UCF-101/<Class>/v_<Class>_g<01-25>_c<01-07>.avi, ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt",
    usual=re.compile(f"(?:.*/)?(?:{_NAMES})", re.I),
    names=re.compile(_NAMES, re.I),
    normal_id=_ucf_id,
)


def find_ucf101(source: Path, options: SourceOptions) -> Found:
    """The clips; missing is what a split names and no file bears.

    Raises:
        UsageError: the folder or a list is not what it should be.
    """
    found = scan(source, UCF101, options)
    files = identify(found, options)
    lists = ActionLists()
    for path in found.annotations:
        if path.name.lower() == "classind.txt":
            lists.read_classes(path)
        elif SPLIT_LIST.fullmatch(path.name):
            lists.read_split(path, lambda label, name: _ucf_id(name))
        else:
            raise UsageError(f"annotations: {path} is none of classInd.txt, trainlist0N.txt and testlist0N.txt")
    result = Found(account(found, files, lists.named, options), found.ignored)
    ids = list(dict.fromkeys([*lists.videos, *(one.stem_id for one in result.candidates)]))
    more = {}
    for video_id in ids:
        if match := _ID.fullmatch(video_id):
            label = match[1].replace("HandStandPushups", "HandstandPushups")  # the class as classInd.txt writes it
            more[video_id] = {"label": label, "group": match[2]}
    result.tables["videos"] = lists.table(ids, more, ("group",))
    return result

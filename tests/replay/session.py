"""A session of a ZFS user, with ``zfs`` and ``zpool`` typed where lamina runs: what each command answers, in shape.

The commands and the classes of their exit statuses (0 done, 1 failed, 2 wrong usage) are those that OpenZFS 2.3.2 was
seen to give; sizes and dates are lamina's own. Where lamina says less (a page of usage is one line) or knows better (a
diff of datasets that are not related), the step says so. ``POOL`` and ``OTHER`` are directories, ``ROOT`` a small tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A command, its exit class, and what is printed.

    ``columns``: the words of a table's header. ``rows``: first words of the lines below, in order. ``out`` and ``err``:
    regular expressions that standard output and error hold; None: nothing is asked of them, empty: nothing is printed.
    """

    command: str
    status: int = 0
    columns: str | None = None
    rows: Sequence[str] | None = None
    out: str | None = None
    err: str | None = None


LIST = "NAME USED AVAIL REFER MOUNTPOINT"
GET = "NAME PROPERTY VALUE SOURCE"
POOLS = "NAME SIZE ALLOC FREE"
HEALTHY = (
    r"(?s)  pool: tank\n state: ONLINE\n.*config:\n\n\tNAME +STATE +READ WRITE CKSUM\n"
    r"\ttank +ONLINE +0 +0 +0\n.*errors: No known data errors\n"
)


def done(command: str, **shape: object) -> Step:
    """A command that does its work; it is silent unless told."""
    return Step(command, 0, **(shape or {"out": "", "err": ""}))  # type: ignore[arg-type]


def failed(command: str, err: str) -> Step:
    """A command that fails with these words."""
    return Step(command, 1, out=None, err=err)


def misused(command: str, err: str) -> Step:
    """A command line that makes no sense."""
    return Step(command, 2, out="", err=err)


POOL_STEPS = [
    misused("zpool create", "missing pool name argument"),
    misused("zpool create tank", "missing"),
    failed("zpool create mirror POOL", "cannot create 'mirror': name is reserved"),
    failed("zpool create 1tank POOL", "cannot create '1tank': name must begin with a letter"),
    failed("zpool create tank@x POOL", "cannot create 'tank@x': invalid character '@' in pool name"),
    failed("zpool create -O bogus=1 tank POOL", "bogus"),
    done("zpool create -O compression=lz4 -O atime=off tank POOL"),
    failed("zpool create tank OTHER", "cannot create 'tank': pool already exists"),
    failed("zpool create tank2 POOL", "cannot create 'tank2'"),
    done("zpool list", columns=POOLS, rows=["tank"]),
    done("zpool list -H", out=r"^tank\t"),
    done("zpool list -Hp", out=r"^tank\t\d+\t\d+\t\d+\t"),
    done("zpool list -o name,size,alloc,free,cap,dedup,health", columns="NAME SIZE ALLOC FREE CAP DEDUP HEALTH"),
    done("zpool list -Hp -o name,size,alloc,free", out=r"^tank\t\d+\t\d+\t\d+\n$"),
    failed("zpool list nosuch", "cannot open 'nosuch': no such pool"),
    misused("zpool list -o bogus", "bad property list: invalid property 'bogus'"),
    done("zpool status", out=HEALTHY),
    done("zpool status -x", out="^all pools are healthy\n$"),
    done("zpool status tank", out=HEALTHY),
    done("zpool status -v tank", out=HEALTHY),
    done("zpool status -j tank", out=r'^\{.*"pools": ?\{\s*"tank".*"state": ?"ONLINE"'),
    failed("zpool status nosuch", "cannot open 'nosuch': no such pool"),
    done(
        "zpool get all tank",
        columns=GET,
        out="(?s)tank  size (?=.*tank  health +ONLINE)(?=.*tank  freeing +0).*feature@",
    ),
    done("zpool get size,free,health tank", columns=GET, rows=["tank", "tank", "tank"]),
    done("zpool get -Hp size,capacity tank", out=r"^tank\tsize\t\d+\t-\ntank\tcapacity\t\d+\t-\n$"),
    done("zpool get -Hp -o value size tank", out=r"^\d+\n$"),
    misused("zpool get bogus tank", "bad property list: invalid property 'bogus'"),
    failed("zpool get size nosuch", "nosuch.*no such pool"),
    failed("zpool set bogus=1 tank", "cannot set property for 'tank': invalid property 'bogus'"),
    failed("zpool set size=10 tank", "cannot set property for 'tank': 'size' is readonly"),
    done("zpool set comment=a_pool tank"),
    done("zpool get comment tank", columns=GET, out=r"tank +comment +a_pool +local"),
]

CREATE_STEPS = [
    misused("zfs create", "missing filesystem argument"),
    done("zfs create tank/images"),
    failed("zfs create tank/images", "cannot create 'tank/images': dataset already exists"),
    failed("zfs create tank/a/b/c", "cannot create 'tank/a/b/c': parent does not exist"),
    done("zfs create -p tank/a/b/c"),
    done("zfs create -o compression=zstd-19 -o recordsize=1M tank/images/base"),
    failed(
        "zfs create -o compression=bogus tank/images/bad",
        r"cannot create 'tank/images/bad': 'compression' must be one of 'on \| off \|",
    ),
    failed("zfs create -o bogus=1 tank/images/bad", "cannot create 'tank/images/bad': invalid property 'bogus'"),
    failed(
        "zfs create -o recordsize=100K tank/images/bad",
        "cannot create 'tank/images/bad': 'recordsize' must be power of 2 from 512B to",
    ),
    failed("zfs create -o used=1 tank/images/bad", "cannot create 'tank/images/bad': 'used' is readonly"),
    done("zfs create -o com.example:tag=prod tank/images/user"),
    failed("zfs create nosuch/x", "cannot create 'nosuch/x': no such pool 'nosuch'"),
    done("zfs create 'tank/bad name'"),
    done("zfs destroy 'tank/bad name'"),
    failed("zfs create 'tank/bad%name'", "cannot create 'tank/bad%name': invalid character"),
    failed("zfs create 'tank/bad@name'", "cannot create 'tank/bad@name': snapshot delimiter '@' is not expected here"),
    failed("zfs create 'tank/bad#name'", "cannot create 'tank/bad#name': bookmark delimiter '#' is not expected here"),
    failed("zfs create tank//x", "cannot create 'tank//x': empty component or misplaced '@' or '#' delimiter in name"),
    failed("zfs create tank/x/", "cannot create 'tank/x/': trailing slash in name"),
    failed("zfs create /tank/x", "cannot create '/tank/x': leading slash in name"),
    failed("zfs create ''", "cannot create '': empty component or misplaced"),
    failed(f"zfs create tank/{'x' * 300}", "name is too long"),
    failed("zfs create tank/..", r"cannot create 'tank/\.\.': parent reference, '\.\.' is found in name"),
    failed("zfs create tank/.", r"cannot create 'tank/\.': self reference, '\.' is found in name"),
    done("zfs create tank/UPPER-ok_1.2:3"),
    done("zfs create -n -v -o compression=gzip-9 tank/dry", out="^would create tank/dry\n\tcompression=gzip-9\n$"),
    done("zfs create -P tank/parsable", out="^create\ttank/parsable\n$"),
    done("zfs create -vP tank/parsable2", out="^create\ttank/parsable2\n$"),
]

_DATASETS = [
    "tank",
    "tank/UPPER-ok_1.2:3",
    "tank/a",
    "tank/a/b",
    "tank/a/b/c",
    "tank/images",
    "tank/images/base",
    "tank/images/user",
    "tank/parsable",
    "tank/parsable2",
]
_IMAGES = ["tank/images", "tank/images/base", "tank/images/user"]

LIST_STEPS = [
    done("zfs list", columns=LIST, rows=_DATASETS),
    done("zfs list tank/images", columns=LIST, rows=["tank/images"]),
    done("zfs list -r tank/images", columns=LIST, rows=_IMAGES),
    done("zfs list -d 1 tank", columns=LIST, rows=[name for name in _DATASETS if name.count("/") < 2]),
    done("zfs list -H", out=r"^tank\t\S+\t\S+\t\S+\tnone\n"),
    done("zfs list -Hp", out=r"^tank\t\d+\t\d+\t\d+\tnone\n"),
    done("zfs list -o name,used,compressratio tank/images", columns="NAME USED RATIO", rows=["tank/images"]),
    done("zfs list -Ho name", out="^" + "\n".join(_DATASETS).replace(".", r"\.") + "\n$"),
    misused("zfs list -o name,bogus", "bad property list: invalid property 'bogus'"),
    failed("zfs list tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    failed("zfs list nosuch", "cannot open 'nosuch': dataset does not exist"),
    done("zfs list -t snapshot", out="", err="^no datasets available\n$"),
    done("zfs list -t snapshot tank/images", out="", err="^no datasets available\n$"),
    misused("zfs list -t bogus", "invalid type 'bogus'"),
    done(
        "zfs list -o space tank/images",
        columns="NAME AVAIL USED USEDSNAP USEDDS USEDREFRESERV USEDCHILD",
        rows=["tank/images"],
    ),
    done("zfs list -o all tank/images", out="^NAME +TYPE +CREATION +USED +AVAIL +REFER +RATIO +MOUNTED +ORIGIN +QUOTA"),
    done("zfs list -S used -o name,used", columns="NAME USED"),
    done("zfs list -s name -o name", columns="NAME", rows=_DATASETS),
    misused("zfs list -Z", "invalid option 'Z'"),
    done("zfs list -j tank/images", out=r'(?s)"datasets".*"tank/images".*"type": ?"FILESYSTEM".*"referenced"'),
    done("image import -q ROOT tank/images@img"),
    done("image import -q ROOT tank/images/base@img"),
    done("zfs list -o name,used,avail,refer,mountpoint", columns=LIST, rows=_DATASETS),
    done(
        "zfs list -r -o name,used,usedbydataset,usedbysnapshots,lrefer,lused,ratio,refratio tank/images",
        columns="NAME USED USEDDS USEDSNAP LREFER LUSED RATIO REFRATIO",
        rows=_IMAGES,
    ),
]

GET_STEPS = [
    done("zfs get used,compressratio,logicalused tank/images", columns=GET, rows=["tank/images"] * 3),
    done(
        "zfs get all tank/images",
        columns=GET,
        out=r"(?s)type +filesystem.*creation .*used .*compression +lz4 +inherited",
    ),
    done("zfs get -Hp all tank/images", out=r"(?s)^tank/images\ttype\tfilesystem\t-\n.*\tused\t\d+\t-\n"),
    done("zfs get compression tank/images", columns=GET, out="tank/images +compression +lz4 +inherited from tank\n"),
    done("zfs get -H compression tank/images", out="^tank/images\tcompression\tlz4\tinherited from tank\n$"),
    done("zfs get -Hp -o value used tank/images", out=r"^\d+\n$"),
    done(
        "zfs get -Hp used,logicalused,compressratio,refcompressratio,lrefer,refer tank/images",
        out=r"\tcompressratio\t\d+\.\d\d\t-\n.*refcompressratio\t.*\n.*\tlogicalreferenced\t.*\n.*\treferenced\t",
    ),
    done("zfs get -o name,property,value,source compression tank/images", columns=GET, rows=["tank/images"]),
    done("zfs get -o all compression tank/images/base", columns="NAME PROPERTY VALUE RECEIVED SOURCE"),
    done("zfs get -r -t filesystem compression tank/images", columns=GET, rows=_IMAGES),
    done(
        "zfs get -s local all tank/images/base",
        columns=GET,
        out=r"recordsize +1M +local\n.*compression +zstd-19 +local",
    ),
    done("zfs get -s inherited all tank/images/base", columns=GET, out="atime +off +inherited from tank"),
    done("zfs get -s local,received all", columns=GET, out="com.example:tag +prod +local"),
    done("zfs get -t filesystem -r compressratio tank/images", columns=GET, rows=_IMAGES),
    done("zfs get -d 1 compressratio tank", columns=GET, rows=[name for name in _DATASETS if name.count("/") < 2]),
    done("zfs get com.example:tag tank/images/user", columns=GET, out="com.example:tag +prod +local"),
    done("zfs get com.example:tag tank/images", columns=GET, out="com.example:tag +- +-"),
    misused("zfs get bogus tank/images", "bad property list: invalid property 'bogus'"),
    failed("zfs get used tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    misused("zfs get", "missing property argument"),
    done("zfs get used", columns=GET),
    done("zfs get -j compressratio tank/images", out=r'(?s)"tank/images".*"compressratio".*"source"'),
]

_BAD_COMPRESSION = r"cannot set property for 'tank/images': 'compression' must be one of 'on \| off"

SET_STEPS = [
    done("zfs set compression=zstd tank/images"),
    done("zfs get compression tank/images", columns=GET, out="compression +zstd +local"),
    done("zfs set compression=zstd-3 tank/images"),
    done("zfs get compression tank/images", columns=GET, out="compression +zstd-3 +local"),
    done("zfs set compression=on tank/images"),
    done("zfs set compression=gzip tank/images"),
    done("zfs get -p compression tank/images", columns=GET, out="compression +gzip +local"),
    failed("zfs set compression=gzip-10 tank/images", _BAD_COMPRESSION),
    failed("zfs set compression=zstd-20 tank/images", _BAD_COMPRESSION),
    done("zfs set compression=zstd-fast-1000 tank/images"),
    failed("zfs set compression=brotli tank/images", _BAD_COMPRESSION),
    failed("zfs set compression= tank/images", _BAD_COMPRESSION),
    failed("zfs set compression tank/images", "cannot open 'compression': dataset does not exist"),
    misused("zfs set compression=lz4", r"missing dataset name\(s\)"),
    misused("zfs set", "missing arguments"),
    failed("zfs set bogus=1 tank/images", "cannot set property for 'tank/images': invalid property 'bogus'"),
    failed("zfs set used=1 tank/images", "cannot set property for 'tank/images': 'used' is readonly"),
    failed("zfs set readonly=yes tank/images", r"'readonly' must be one of 'on \| off'"),
    done("zfs set recordsize=64K tank/images"),
    failed("zfs set recordsize=1000 tank/images", "'recordsize' must be power of 2 from 512B to"),
    failed("zfs set recordsize=32M tank/images", "'recordsize' must be power of 2 from 512B to"),
    failed("zfs set recordsize=abc tank/images", "bad numeric value 'abc'"),
    failed("zfs set quota=1 tank/images", "size is less than current used or reserved space"),
    done("zfs set quota=1G tank/images"),
    done("zfs set quota=none tank/images"),
    failed("zfs set quota=-5 tank/images", "bad numeric value '-5'"),
    failed("zfs set reservation=900T tank/images", "size is greater than available space"),
    failed("zfs set atime=maybe tank/images", r"'atime' must be one of 'on \| off'"),
    failed("zfs set mountpoint=relative tank/images", "'mountpoint' must be an absolute path, 'none', or 'legacy'"),
    done("zfs set mountpoint=/mnt/im tank/images"),
    failed("zfs set compression=lz4 tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    done("zfs set compression=lz4 readonly=off tank/images tank/a"),
    failed("zfs set compression=zstd atime=bogus tank/images", r"'atime' must be one of 'on \| off'"),
    done("zfs set com.example:note=hello tank/images"),
    failed("zfs set nocolon=1 tank/images", "invalid property 'nocolon'"),
    done("zfs inherit compression tank/images"),
    done("zfs get compression tank/images", columns=GET, out="compression +lz4 +inherited from tank"),
    done("zfs inherit -r compression tank/images"),
    done(
        "zfs get -r compression tank/images",
        columns=GET,
        out="base +compression +lz4 +inherited from tank",
    ),
    misused("zfs inherit bogus tank/images", "invalid property 'bogus'"),
    failed("zfs inherit used tank/images", "used property is read-only"),
    done("zfs inherit com.example:note tank/images"),
    done("zfs inherit mountpoint tank/images"),
    failed("zfs inherit compression tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    failed("zfs inherit quota tank/images", "'quota' property cannot be inherited"),
]

SNAPSHOT_STEPS = [
    misused("zfs snapshot", "missing snapshot argument"),
    done("zfs snapshot tank/images@s1"),
    failed("zfs snapshot tank/images@s1", "cannot create snapshot 'tank/images@s1': dataset already exists"),
    misused("zfs snapshot tank/images/x@y", "cannot open 'tank/images/x': dataset does not exist"),
    misused("zfs snapshot tank/images", "snapshot"),
    failed("zfs snapshot tank/images@", "cannot create snapshot 'tank/images@': empty component or misplaced '@'"),
    failed("zfs snapshot tank/images@a@b", "multiple '@' and/or '#' delimiters in name"),
    done("zfs snapshot 'tank/images@a b'"),
    done("zfs destroy 'tank/images@a b'"),
    failed("zfs snapshot tank/images@a/b", "cannot create snapshot 'tank/images@a/b': "),
    failed("zfs snapshot 'tank/images@a%b'", "cannot create snapshot 'tank/images@a%b': invalid character"),
    failed(f"zfs snapshot tank/images@{'x' * 300}", "name is too long"),
    done("zfs snapshot -r tank/images@s2"),
    failed("zfs snapshot -r tank/images@s2", "(?s)'tank/images@s2': dataset already exists.*no snapshots were created"),
    done("zfs snapshot -o com.example:k=v tank/images@s3"),
    failed("zfs snapshot -o compression=lz4 tank/images@s4", "this property can not be modified for snapshots"),
    done("zfs snap tank/images@s5 tank/a@s5"),
    done(
        "zfs list -t snapshot",
        columns=LIST,
        rows=[
            "tank/a@s5",
            "tank/images@img",
            *(f"tank/images@s{number}" for number in (1, 2, 3, 5)),
            "tank/images/base@img",
            "tank/images/base@s2",
            "tank/images/user@s2",
        ],
    ),
    done("zfs list -t snapshot -H", out=r"^tank/a@s5\t\S+\t-\t\S+\t-\n"),
    done("zfs list -t snapshot -r tank/images -o name,creation,used,refer", columns="NAME CREATION USED REFER"),
    done("zfs list -t all -r tank/images", columns=LIST, out=r"\ntank/images@s1 +0B +- +\S+ +-\n"),
    done("zfs list tank/images@s1", columns=LIST, rows=["tank/images@s1"]),
    done("zfs get all tank/images@s1", columns=GET, out=r"(?s)type +snapshot.*defer_destroy +off.*userrefs +0"),
    done("zfs get used,compressratio,logicalused tank/images@s1", columns=GET, out="logicalused +- +-"),
    failed("zfs set compression=lz4 tank/images@s1", "this property can not be modified for snapshots"),
    done("zfs get -r -t snapshot used tank/images", columns=GET, out="tank/images/base@s2 +used"),
]

DIFF_STEPS = [
    # ROOT has changed in the meantime: a name, a file gone, a new one, a new directory.
    done("image import -q CHANGED tank/images@new"),
    done(
        "zfs diff tank/images@s1",
        out=r"(?sm)\A(?=.*^-\t\S*/text$)(?=.*^\+\t\S*/newfile$)(?=.*^\+\t\S*/d$)(?=.*^M\t\S*/$)",
    ),
    done("zfs diff tank/images@s1 tank/images", out=r"(?m)^\+\t\S*/d/f$"),
    done("zfs diff -H tank/images@s1 tank/images", out=r"(?m)^-\t\S*/text$"),
    done("zfs diff -F tank/images@s1 tank/images", out=r"(?m)^\+\t/\t\S*/d$"),
    done("zfs diff -FHt tank/images@s1 tank/images", out=r"(?m)^\d+\.\d{9}\t\+\tF\t\S*/d/f$"),
    done("zfs diff tank/images@s1 tank/images@s2"),
    failed("zfs diff tank/images@nosuch tank/images", "tank/images@nosuch|No such file"),
    failed("zfs diff tank/images", "missing '@' delimiter in snapshot name"),
    # Also of datasets that are not related: OpenZFS refuses.
    done("zfs diff tank/images@s1 tank/a", out=r"(?m)^-\t\S*/text$"),
]

ROLLBACK_STEPS = [
    failed(
        "zfs rollback tank/images@s1",
        "(?s)cannot rollback to 'tank/images@s1': more recent snapshots or bookmarks exist\n"
        "use '-r' to force deletion of the following snapshots and bookmarks:\n.*tank/images@s2\n.*tank/images@s5",
    ),
    done("zfs destroy tank/images@new"),
    done("zfs rollback tank/images@s5"),
    done("zfs rollback -r tank/images@s1"),
    failed("zfs rollback tank/images@nosuch", "cannot open 'tank/images@nosuch': dataset does not exist"),
    failed("zfs rollback tank/images", "cannot open 'tank/images': missing '@' delimiter in snapshot name"),
    failed("zfs rollback tank/nosuch@x", "cannot open 'tank/nosuch@x': dataset does not exist"),
    done(
        "zfs list -t snapshot -r tank/images",
        columns=LIST,
        rows=[
            "tank/images@img",
            "tank/images@s1",
            "tank/images/base@img",
            "tank/images/base@s2",
            "tank/images/user@s2",
        ],
    ),
]

HOLD_STEPS = [
    done("zfs snapshot tank/images@h1"),
    done("zfs hold keep tank/images@h1"),
    failed("zfs hold keep tank/images@h1", "cannot hold snapshot 'tank/images@h1': tag already exists on this dataset"),
    done("zfs holds tank/images@h1", columns="NAME TAG TIMESTAMP", rows=["tank/images@h1"]),
    done("zfs holds -H tank/images@h1", out=r"^tank/images@h1\tkeep\t\w{3} \w{3} +\d+ "),
    done("zfs holds -r tank/images@h1", columns="NAME TAG TIMESTAMP"),
    done("zfs get userrefs tank/images@h1", columns=GET, out="userrefs +1 "),
    failed("zfs destroy tank/images@h1", "cannot destroy snapshot tank/images@h1: it's being held"),
    done("zfs destroy -d tank/images@h1"),
    done("zfs get defer_destroy tank/images@h1", columns=GET, out="defer_destroy +on "),
    failed("zfs release nosuch tank/images@h1", "cannot release hold from snapshot 'tank/images@h1': no such tag"),
    done("zfs release keep tank/images@h1"),
    failed("zfs list tank/images@h1", "cannot open 'tank/images@h1': dataset does not exist"),
    failed("zfs hold keep tank/images@nosuch", "cannot hold snapshot 'tank/images@nosuch': dataset does not exist"),
    failed("zfs hold keep tank/images", "'tank/images' is not a snapshot"),
]

_CLONES = r"use '-R' to destroy the following datasets:\n(?=.*tank/clone1)(?=.*tank/clone3)(?=.*tank/x/y/clone2)"

CLONE_STEPS = [
    done("zfs clone tank/images@s1 tank/clone1"),
    failed("zfs clone tank/images@s1 tank/clone1", "cannot create 'tank/clone1': dataset already exists"),
    done("zfs clone -p tank/images@s1 tank/x/y/clone2"),
    done("zfs clone -o compression=gzip-9 tank/images@s1 tank/clone3"),
    failed("zfs clone tank/images tank/clone4", "cannot open 'tank/images': missing '@' delimiter in snapshot name"),
    failed("zfs clone tank/images@nosuch tank/clone4", "cannot open 'tank/images@nosuch': dataset does not exist"),
    failed("zfs clone tank/images@s1 nosuch/clone4", "cannot create 'nosuch/clone4': no such pool 'nosuch'"),
    failed("zfs clone tank/images@s1 tank/nope/clone4", "cannot create 'tank/nope/clone4': parent does not exist"),
    done("zfs get origin tank/clone1", columns=GET, out="origin +tank/images@s1 +-"),
    done(
        "zfs get clones tank/images@s1",
        columns=GET,
        out="clones +(?=.*tank/clone3)(?=.*tank/x/y/clone2)(?=.*tank/clone1)",
    ),
    done(
        "zfs list -o name,used,refer,origin -r tank",
        columns="NAME USED REFER ORIGIN",
        out="tank/clone1 +0B .*tank/images@s1",
    ),
    failed(
        "zfs destroy tank/images@s1", "(?s)cannot destroy 'tank/images@s1': snapshot has dependent clones\n" + _CLONES
    ),
    failed("zfs destroy -r tank/images@s1", "cannot destroy 'tank/images@s1': snapshot has dependent clones"),
    failed("zfs destroy -nv tank/images@s1", "cannot destroy 'tank/images@s1': snapshot has dependent clones"),
    failed(
        "zfs destroy tank/images",
        r"(?s)cannot destroy 'tank/images': filesystem has children\nuse '-r' to destroy the following datasets:\n"
        r"(?=.*tank/images/base@s2)(?=.*tank/images/user\n)(?=.*tank/images@s1)",
    ),
    failed("zfs destroy -r tank/images", "cannot destroy 'tank/images': filesystem has dependent clones"),
    done("zfs destroy -nvR tank/images@s1", out=r"would destroy tank/images@s1\n(?s:.*)would reclaim \d"),
    done("zfs promote tank/clone1"),
    done(
        "zfs list -t all -o name,used,refer,origin -r tank/clone1 tank/images",
        columns="NAME USED REFER ORIGIN",
        out=r"(?s)tank/clone1@s1 .*tank/images +\S+ +\S+ +tank/clone1@s1\n",
    ),
    failed("zfs promote tank/clone1", "cannot promote 'tank/clone1': not a cloned filesystem"),
    done("zfs promote tank/images"),
    failed("zfs promote tank/a", "cannot promote 'tank/a': not a cloned filesystem"),
    failed("zfs promote tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
]

RENAME_STEPS = [
    done("zfs rename tank/clone3 tank/clone3b"),
    failed("zfs rename tank/clone3b tank/images", "cannot rename 'tank/clone3b': dataset already exists"),
    failed("zfs rename tank/nosuch tank/y", "cannot open 'tank/nosuch': dataset does not exist"),
    failed("zfs rename tank/clone3b other/y", "cannot create 'other/y': no such pool 'other'"),
    failed("zfs rename tank/clone3b tank/q/r/s", "cannot create 'tank/q/r/s': parent does not exist"),
    done("zfs rename -p tank/clone3b tank/q/r/s"),
    done("zfs rename tank/images@s1 tank/images@s1r"),
    failed(
        "zfs rename tank/images@s1r tank/a@zz", "cannot rename to 'tank/a@zz': snapshots must be part of same dataset"
    ),
    done("zfs rename tank/images@s1r s1"),
    done("zfs rename -r tank/images@s1 tank/images@s1r"),
    failed("zfs rename tank/images tank/images/sub", "New dataset name cannot be a descendant of current dataset name"),
    failed("zfs rename tank tank2", "cannot create 'tank2': missing dataset name"),
    done("zfs snapshot tank/images@bm"),
    done("zfs bookmark tank/images@bm tank/images#b1"),
    misused(
        "zfs bookmark tank/images@nosuch tank/images#b2", "cannot open 'tank/images@nosuch': dataset does not exist"
    ),
    failed("zfs bookmark tank/images@bm '#b1'", "cannot create bookmark 'tank/images#b1': bookmark exists"),
    done("zfs list -t bookmark", columns=LIST, rows=["tank/images#b1"]),
]

DESTROY_STEPS = [
    done("zfs snapshot -r tank/images@r1"),
    done("zfs snapshot -r tank/images@r2"),
    done("zfs snapshot -r tank/images@r3"),
    done("zfs snapshot tank/images@r4"),
    misused("zfs destroy", "missing dataset argument"),
    failed("zfs destroy tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    failed("zfs destroy nosuch", "cannot open 'nosuch': dataset does not exist"),
    failed("zfs destroy tank/images@nosuch", "could not find any snapshots to destroy|snapshot does not exist"),
    failed("zfs destroy -n tank/images", "cannot destroy 'tank/images': filesystem has children"),
    failed("zfs destroy -nv tank/images", "cannot destroy 'tank/images': filesystem has children"),
    failed("zfs destroy -rnv tank/images", "cannot destroy 'tank/images': filesystem has dependent clones"),
    done("zfs destroy -nv tank/images@r1", out=r"^would destroy tank/images@r1\nwould reclaim 0B?\n$"),
    done("zfs destroy -nvp tank/images@r1", out="^destroy\ttank/images@r1\nreclaim\t0\n$"),
    done("zfs destroy -nv tank/images@r1%r3", out=r"^(would destroy tank/images@r[123]\n){3}would reclaim \d"),
    done("zfs destroy -v tank/images@r1%r3", out=r"^(will destroy tank/images@r[123]\n){3}will reclaim \d"),
    done("zfs destroy -v tank/images@r4,nosuch", out="^will destroy tank/images@r4\nwill reclaim 0B?\n$"),
    failed("zfs destroy tank/a", "(?s)cannot destroy 'tank/a': filesystem has children.*tank/a/b/c.*tank/a@s5"),
    done("zfs destroy -r tank/a"),
    done("zfs destroy -v tank/UPPER-ok_1.2:3", out="will destroy tank/UPPER-ok_1.2:3\n"),
    failed("zfs destroy tank", "(?s)cannot destroy 'tank': operation does not apply to pools.*destroy -r tank"),
    done("zfs destroy -nr tank"),
    done("zfs destroy tank/images#b1"),
    done("zfs destroy -R tank/clone1"),
    failed("zfs unmount tank/images/user", "cannot unmount 'tank/images/user': not currently mounted"),
    failed("zfs mount tank/nosuch", "cannot open 'tank/nosuch': dataset does not exist"),
    Step("zfs mount"),  # whatever else is mounted on this machine
    misused("zfs bogus", "unrecognized command 'bogus'"),
    misused("zpool bogus", "unrecognized command '(pool )?bogus'"),
    misused("zfs list -Q", "invalid option 'Q'"),
]

UPKEEP_STEPS = [
    done("zpool scrub -w tank"),
    done("zpool status tank", out=r"(?m)^  scan: scrub repaired 0B in 00:00:\d\d with 0 errors on \w{3} \w{3} "),
    failed("zpool scrub -s tank", "cannot cancel scrubbing tank: there is no active scrub"),
    failed("zpool scrub nosuch", "cannot open 'nosuch': no such pool"),
    misused("zpool scrub", "missing pool name argument"),
    done(
        "zpool history tank",
        out=r"(?m)^History for 'tank':\n\d{4}-\d\d-\d\d\.\d\d:\d\d:\d\d lamina pool create .*tank ",
    ),
    done("zpool history -l tank", out=r"\d lamina create tank/images \[user \d+ \(\w+\) on \S+\]\n"),
    failed("zpool history nosuch", "cannot open 'nosuch': no such pool"),
    done("zpool clear tank"),
    done("zpool upgrade", out="(?i)feature"),
    done("zpool export tank"),
    done("zpool list", out="no pools available"),
    failed("zpool import nosuch", "cannot import 'nosuch': no such pool available"),
    done(
        "zpool import -d PLACE", out="(?s)pool: tank\n.*id: \\d+\n.*state: ONLINE\n.*action: The pool can be imported"
    ),
    done("zpool import -d PLACE tank"),
    failed("zpool import -d PLACE tank", "cannot import 'tank': a pool with that name already exists"),
    done("zpool get comment tank", columns=GET, out=r"tank +comment +a_pool +local"),
    done("zpool destroy tank"),
    failed("zpool destroy tank", "cannot open 'tank': no such pool"),
    done("zpool list", out="no pools available"),
    done("zfs list", out="", err="no datasets available"),
]

SESSION = [
    *POOL_STEPS,
    *CREATE_STEPS,
    *LIST_STEPS,
    *GET_STEPS,
    *SET_STEPS,
    *SNAPSHOT_STEPS,
    *DIFF_STEPS,
    *ROLLBACK_STEPS,
    *HOLD_STEPS,
    *CLONE_STEPS,
    *RENAME_STEPS,
    *DESTROY_STEPS,
    *UPKEEP_STEPS,
]

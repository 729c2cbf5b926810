#!/usr/bin/env bash
# The demo: two real Debian systems, alike but built apart, go into one pool; the table shows what that saves; then
# Python runs inside one of them, straight from the mount. `make demo` calls it with lamina first on the PATH.
# The systems are kept in .cache/demo, so a second run takes seconds. DEMO_CACHE=DIR keeps them elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."

# Two versions of a "Python with numpy" image. Each is bootstrapped on its own: no layer is shared.
names=(numpy-1.26 numpy-2.2)
declare -A numpy=([numpy-1.26]=1.26.4 [numpy-2.2]=2.2.6)
declare -A extra=([numpy-1.26]='' [numpy-2.2]=,curl)
repository=demo/images/python

bold='' dim='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' dim=$'\033[2m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() {  # print a command as one would type it, then run it
  local word line='$'
  for word in "$@"; do
    case $word in *[[:space:]]*) line+=" '$word'" ;; *) line+=" $word" ;; esac
  done
  printf '%s%s%s\n' "$dim" "$line" "$plain"
  "$@"
}

bootstrap() {  # bootstrap NAME OUT [OPTION ...]: a minimal Debian with Python, as a directory or a tar
  mmdebstrap --quiet --variant=minbase --include="python3${extra[$1]}" "${@:3}" bookworm "$2"
}

say_building() { say "Building two Debian systems with Python and numpy (kept in ${1#"$PWD"/})"; }

# ---- who we are ------------------------------------------------------------------------------------------------------
# A Debian system has files of many users, and entering it takes chroot: root, or a user namespace in which we look like
# root. There, systems come from tars made outside (no device nodes), and are removed at the end; the tars are kept.
cache=${DEMO_CACHE:-$PWD/.cache/demo}
if [ "$(id -u)" -ne 0 ]; then
  bash scripts/apt-need.sh mmdebstrap=mmdebstrap newuidmap=uidmap unshare=util-linux
  if ! unshare --map-root-user --map-auto --mount true 2>/dev/null; then
    echo "make demo needs root here (this user has no user namespaces, or no range in /etc/subuid): run sudo make demo" >&2
    exit 1
  fi
  say_building "$cache"
  mkdir -p "$cache"
  for name in "${names[@]}"; do
    [ -f "$cache/$name.tar" ] && continue
    bootstrap "$name" "$cache/$name.tar.part" --mode=unshare --format=tar
    mv "$cache/$name.tar.part" "$cache/$name.tar"
  done
  export DEMO_TARS=$cache
  exec unshare --map-root-user --map-auto --mount bash "$0"
fi
[ -n "${DEMO_TARS:-}" ] || bash scripts/apt-need.sh mmdebstrap=mmdebstrap

# ---- always leave the machine as it was ------------------------------------------------------------------------------
work=$(mktemp -d "${TMPDIR:-/var/tmp}/lamina-demo.XXXXXX")
mnt=$work/mnt
# The pool is known by name to this demo alone.
export LAMINA_POOLS=$work/pools
[ -z "${DEMO_TARS:-}" ] || cache=$work/systems

clean_up() {
  status=$?
  trap - EXIT
  if mountpoint -q "$mnt"; then lamina umount "$mnt" 2>/dev/null || umount --lazy "$mnt" || true; fi
  # Never follow a mount that would not go away.
  rm -rf --one-file-system "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the two systems -------------------------------------------------------------------------------------------------
build() {
  local name=$1 dir=$cache/$1 part=$cache/$1.part platforms=() glibc
  [ ! -d "$dir" ] || return 0
  rm -rf --one-file-system "$part"
  if [ -n "${DEMO_TARS:-}" ]; then
    mkdir -p "$part"
    tar -C "$part" -xpf "$DEMO_TARS/$name.tar" --exclude='./dev/*'
  else
    bootstrap "$name" "$part"
  fi
  for glibc in 2_28 2_17; do platforms+=(--platform "manylinux_${glibc}_$(uname -m)"); done
  # Python 3.11 is what bookworm has, whatever Python runs this demo.
  python -m pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: --python-version 3.11 \
    "${platforms[@]}" --platform "manylinux2014_$(uname -m)" \
    --target "$part/usr/local/lib/python3.11/dist-packages" "numpy==${numpy[$name]}"
  mv "$part" "$dir"
}

[ -n "${DEMO_TARS:-}" ] || say_building "$cache"
mkdir -p "$cache"
jobs=()
for name in "${names[@]}"; do build "$name" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job"; done

# ---- into the pool ---------------------------------------------------------------------------------------------------
say "A pool is a directory"
show lamina pool create demo "$work/pool"

say "Both systems go in"
for name in "${names[@]}"; do show lamina image import "$cache/$name" "$repository@$name"; done

say "What is saved"
on_disk() { du -s --block-size=1 "$@" | awk '{ sum += $1 } END { print sum }'; }
row() { printf '  %-44s %10s\n' "$1" "$2"; }
mega() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }
directories=0
for name in "${names[@]}"; do
  size=$(on_disk "$cache/$name"); directories=$((directories + size))
  row "$name as a directory" "$(mega "$size")"
done
pool=$(on_disk "$work/pool")
row "both as directories" "$(mega "$directories")"
row "both in the pool, catalogue included" "$(mega "$pool")"
row "saved" "$(awk -v a="$directories" -v b="$pool" 'BEGIN { printf "%.0f %%", 100 * (1 - b / a) }')"
echo
show lamina image list
echo
show lamina get compressratio,dedupratio,reduction "$repository"

# ---- and out again ---------------------------------------------------------------------------------------------------
say "Run from the pool: nothing is unpacked"
mkdir "$mnt"
for name in "${names[@]}"; do
  show lamina mount "$repository@$name" "$mnt"
  show chroot "$mnt" python3 -B -c \
    'import sys, numpy as np; print("Python", sys.version.split()[0], "numpy", np.__version__, "dot =", np.arange(5) @ np.arange(5))'
  show lamina umount "$mnt"
done

say "Nothing changed: contents and all metadata, against the directories they came from"
for name in "${names[@]}"; do show lamina image verify "$repository@$name" --against "$cache/$name"; done

say "Done in $SECONDS seconds."

#!/usr/bin/env bash
# Makes a fresh machine able to build and run Roost: Debian packages, npm packages, build. Does only what is not done yet; when all
# is there it looks and ends. Every requirement is checked before anything is changed.
#
#   bash tools/bootstrap.sh [--with-tests] [--with-benchmarks]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# ---- What is needed ---------------------------------------------------------------------------------------------------------

# Old QEMU lets a guest write into memory it shares with others (docs: architecture); Debian 12 has the new one in its backports.
qemu_version_min=8.2
qemu_packages=(qemu-system-x86 qemu-utils)
# Older ones cannot make a file system of a tar archive; Debian 12 has the new one in its backports, too.
e2fsprogs_version_min=1.47.1
packages=(
  iproute2 nftables conntrack                  # network slots
  util-linux procps                            # setpriv, unshare, flock
  busybox-static                               # into the guest
  kmod lz4 xz-utils zstd                       # kernel image
  squashfs-tools mmdebstrap                    # agent disk, base template
  openssh-sftp-server                          # into the guest; brings the OpenSSH client, which `roost ssh` starts
  skopeo libarchive-tools                      # imported images; mke2fs reads tar by the library that the second one brings
  gcc libc6-dev                                # the guest agent's launcher
  ca-certificates git python3                  # the quickstart's demo runs its program on the host, too
)
# For `npm test`: database tests run on a real server, imports of images use a real registry; tests start both themselves.
postgresql_packages=(postgresql)
registry_packages=(docker-registry libcap2-bin)
# A real browser, and what makes it trust an authority; what people use over SSH.
client_packages=(chromium libnss3-tools rsync)
# For `npm run bench`: what a user might pick instead.
benchmark_packages=(crun)

node_version_min=20.19.0
disk_gib_first=6                               # packages, npm packages, images, room to build them
disk_gib_later=1
cache_dir=${ROOST_CACHE_DIR:-/var/cache/roost}
state_dir=${ROOST_DIR:-/var/lib/roost}

# ---- Words ------------------------------------------------------------------------------------------------------------------

with_tests=no
with_benchmarks=no
for argument in "$@"; do
  case $argument in
    --with-tests) with_tests=yes ;;
    --with-benchmarks) with_benchmarks=yes ;;
    *)
      echo "bootstrap: unknown option $argument (there are --with-tests and --with-benchmarks)" >&2
      exit 2
      ;;
  esac
done

say() { printf '%6d s  %s\n' "$SECONDS" "$*"; }
refuse() {
  printf 'Roost cannot be set up here: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

scratch=
backports_draft=
cleanup() {
  [ -z "$scratch" ] || rm -rf "$scratch"
  [ -z "$backports_draft" ] || rm -f "$backports_draft"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Runs a command quietly; what it printed is shown only when it fails.
quietly() {
  local what=$1
  shift
  say "$what"
  if ! "$@" >"$scratch/log" 2>&1 </dev/null; then
    tail -n 40 "$scratch/log" >&2
    refuse "$what failed; its last lines are above" "Nothing half done is kept: run the same command again once the cause is gone."
  fi
}

# ---- Requirements -----------------------------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || refuse "it needs root, to install packages and to run virtual machines" "Run the same command with sudo, or as root."
[ "$(uname -m)" = x86_64 ] || refuse "this is a $(uname -m) machine, and so far only x86_64 is supported"

distribution=unknown
distribution_version=0
codename=
if [ -r /etc/os-release ]; then
  distribution=$(. /etc/os-release && echo "${ID:-unknown}")
  distribution_version=$(. /etc/os-release && echo "${VERSION_ID:-0}")
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
fi
if [ "$distribution" != debian ] || ! version_at_least "$distribution_version" 12; then
  refuse "it needs Debian 12 or newer, and this is $distribution $distribution_version" "Use a Debian machine, or a virtual machine with Debian in it."
fi

command -v node >/dev/null || refuse "Node.js is missing; it needs $node_version_min or newer" "Install it from nodejs.org or your package manager."
node_version=$(node --version)
version_at_least "${node_version#v}" "$node_version_min" ||
  refuse "it needs Node.js $node_version_min or newer, and this is ${node_version#v}" "Install a newer one from nodejs.org or your package manager."
command -v npm >/dev/null || refuse "npm is missing" "Install it (it comes with Node.js; in Debian it is the package npm)."

disk_gib=$disk_gib_first
[ ! -e "$cache_dir/images/images.json" ] || disk_gib=$disk_gib_later
for folder in "$cache_dir" "$state_dir"; do
  existing=$folder
  while [ ! -d "$existing" ]; do existing=$(dirname "$existing"); done
  free_kib=$(df --output=avail -k "$existing" | tail -n 1)
  [ "$free_kib" -ge $((disk_gib * 1024 * 1024)) ] ||
    refuse "$folder needs $disk_gib GiB of free disk space, and has $((free_kib / 1024 / 1024)) GiB" \
      "Make room there, or set ROOST_CACHE_DIR and ROOST_DIR to folders on a larger disk."
done

# ---- One at a time ----------------------------------------------------------------------------------------------------------

scratch=$(mktemp -d)
exec 9>/run/lock/roost-bootstrap.lock
if ! flock --nonblock 9; then
  say "another bootstrap is running; waiting for it"
  flock --timeout 1800 9 || refuse "another bootstrap has been running for half an hour" "See what it is doing: fuser /run/lock/roost-bootstrap.lock"
fi

# ---- Debian packages --------------------------------------------------------------------------------------------------------

# Prints those of its arguments that are not installed.
missing_packages() {
  # It fails when it has never heard of one of them, after it has told about the others.
  { dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
    sed -n 's/^installed //p' | sort -u >"$scratch/installed"
  printf '%s\n' "$@" | sort -u | comm -23 - "$scratch/installed"
}

apt() {
  env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@"
}

# The source of backports: Debian's own, as this machine has it, with another suite. Prints nothing when there is none to derive from.
backports_source() {
  local file
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -e "$file" ] || continue
    # One stanza per paragraph; comments away, so that they are not taken for fields.
    grep -v '^#' "$file" | awk -v suite="$codename-updates" -v target="$codename-backports" '
      BEGIN { RS = ""; FS = "\n" }
      $0 ~ "(^|\n)Suites:[^\n]*" suite && $0 ~ "(^|\n)Types:[^\n]*deb" {
        for (i = 1; i <= NF; i++) {
          if ($i ~ /^Suites:/) print "Suites: " target
          else if ($i ~ /^Components:/) print "Components: main"
          else if ($i ~ /^Types:/) print "Types: deb"
          else print $i
        }
        exit
      }' >"$scratch/stanza"
    if [ -s "$scratch/stanza" ]; then
      cat "$scratch/stanza"
      return
    fi
  done
  # The one-line format: deb [options] URI SUITE COMPONENTS
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk -v suite="$codename-updates" -v target="$codename-backports" '
    $1 == "deb" {
      options = ""; first = 2
      if ($2 ~ /^\[/) { for (; first <= NF; first++) { options = options " " $first; if ($first ~ /\]$/) { first++; break } } }
      if ($(first + 1) == suite) {
        print "Types: deb"; print "URIs: " $first; print "Suites: " target; print "Components: main"
        if (match(options, /signed-by=[^] ]+/)) print "Signed-By: " substr(options, RSTART + 10, RLENGTH - 10)
        exit
      }
    }'
}

has_new_qemu() {
  local installed
  installed=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p')
  [ -n "$installed" ] && version_at_least "$installed" "$qemu_version_min" && [ -z "$(missing_packages "${qemu_packages[@]}")" ]
}

has_new_e2fsprogs() {
  local installed
  installed=$(mke2fs -V 2>&1 | sed -n 's/^mke2fs \([0-9.]*\).*/\1/p')
  [ -n "$installed" ] && version_at_least "$installed" "$e2fsprogs_version_min"
}

# The newest version of a package that apt could install.
newest_offered() { apt-cache madison "$1" 2>/dev/null | awk -F ' *[|] *' '{ print $2 }' | sed 's/^ *[0-9]*://' | sort -rV | head -n 1; }

# install_new NAME VERSION PACKAGE...: packages of which the ordinary suite may have too old ones; the first one's version is looked at.
install_new() {
  local what=$1 version_min=$2 suite=()
  shift 2
  if ! version_at_least "$(newest_offered "$1")" "$version_min"; then
    local file=/etc/apt/sources.list.d/roost-backports.sources
    backports_draft=$file.draft # apt ignores it: it does not end in .sources
    backports_source >"$backports_draft"
    grep -q '^URIs:' "$backports_draft" ||
      refuse "Debian $codename has no $what $version_min, and /etc/apt has no source of $codename-updates from which to derive its backports" \
        "Add $codename-backports to /etc/apt/sources.list.d, or install $what $version_min or newer yourself."
    mv "$backports_draft" "$file"
    backports_draft=
    say "reading package lists with $codename-backports"
    if ! apt update >"$scratch/log" 2>&1 </dev/null; then
      rm -f "$file"
      tail -n 20 "$scratch/log" >&2
      refuse "the package source $codename-backports does not work; its messages are above" "It has been removed again."
    fi
    version_at_least "$(newest_offered "$1")" "$version_min" || refuse "$codename-backports has no $what $version_min or newer"
  fi
  # Where the ordinary suite has it, its version is the candidate anyway.
  if apt-cache policy 2>/dev/null | grep -q "n=$codename-backports"; then suite=(--target-release "$codename-backports"); fi
  quietly "installing $what" apt install "${suite[@]}" "$@"
}

wanted=("${packages[@]}")
# Debian would start servers of their own at once, on the standard ports.
if [ "$with_tests" = yes ] && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
  wanted+=("${postgresql_packages[@]}")
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
  fi
fi
if [ "$with_tests" = yes ]; then
  wanted+=("${registry_packages[@]}" "${client_packages[@]}")
  if [ ! -e /usr/bin/docker-registry ] && [ ! -e /etc/systemd/system/docker-registry.service ]; then
    mkdir -p /etc/systemd/system
    ln -s /dev/null /etc/systemd/system/docker-registry.service
  fi
fi
[ "$with_benchmarks" = no ] || wanted+=("${benchmark_packages[@]}")
mapfile -t missing < <(missing_packages "${wanted[@]}")
if [ ${#missing[@]} -gt 0 ] || ! has_new_qemu || ! has_new_e2fsprogs; then
  # An installation that was cut off earlier blocks every later one.
  quietly "reading package lists" apt update
  quietly "finishing earlier installations" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a --force-confold
  has_new_qemu || install_new QEMU "$qemu_version_min" "${qemu_packages[@]}"
  has_new_e2fsprogs || install_new e2fsprogs "$e2fsprogs_version_min" e2fsprogs
  [ ${#missing[@]} -eq 0 ] || quietly "installing ${missing[*]}" apt install "${missing[@]}"
fi

# ---- npm packages and build -------------------------------------------------------------------------------------------------

# npm writes this file last: an installation that was cut off has none.
installed=node_modules/.package-lock.json
if [ ! -e "$installed" ] || [ package-lock.json -nt "$installed" ]; then
  quietly "installing npm packages" npm ci --no-audit --no-fund
  touch "$installed"
fi

# Sources and package files that are newer than the last build that succeeded; folders, too: a file removed from one changes it.
built=node_modules/.roost-built
is_stale() {
  [ ! -e "$built" ] || [ "$installed" -nt "$built" ] || [ ! -e apps/guest-agent/dist/agent/agent.mjs ] ||
    [ -n "$(find package.json tsconfig.json tsconfig.base.json apps packages images tools tests \
      \( -name node_modules -o -name dist \) -prune -o \( -type f -o -path '*/src*' -type d \) -newer "$built" -print -quit)" ]
}
if is_stale; then
  touch "$scratch/build-started"
  quietly "building" npm run build --silent
  # As of its start: what changed while it ran is built next time.
  touch --reference="$scratch/build-started" "$built"
fi
say "machine ready"

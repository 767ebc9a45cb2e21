import { busyboxPath } from "./guest-command.ts";

/**
 * What builds do in guests themselves, as scripts for the agent disk's BusyBox, because an image may have no shell and no tools. They run as root; each word that somebody else chose is an
 * argument, never part of the text. What goes wrong is said in one line on the error stream.
 */

const head = `B=${busyboxPath}
set -u
die() { echo "$1" >&2; exit 1; }
`;

/** $1: account as \`name\`, number, or either with \`:group\`. Sets n, u, g, h: name, ids and home of the user; n is empty where there is none. */
const lookUp = `look_up() {
  wanted=\${1%%:*} group=
  case $1 in *:*) group=\${1#*:} ;; esac
  n= u= g= h=/
  [ -n "$wanted" ] || wanted=root
  if [ -e /etc/passwd ]; then
    while IFS=: read -r pn _ pu pg _ ph _ || [ -n "$pn" ]; do
      if [ "$pn" = "$wanted" ] || [ "$pu" = "$wanted" ]; then n=$pn u=$pu g=$pg h=\${ph:-/}; break; fi
    done </etc/passwd
  fi
  [ -z "$n" ] && case $wanted in root | 0) n=root u=0 g=0 h=/root ;; esac
  [ -n "$group" ] || return 0
  case $group in
  *[!0-9]*)
    g=
    [ -e /etc/group ] && while IFS=: read -r gn _ gg _ || [ -n "$gn" ]; do
      if [ "$gn" = "$group" ]; then g=$gg; break; fi
    done </etc/group
    [ -n "$g" ] || die "there is no group '$group'"
    ;;
  *) g=$group ;;
  esac
}
`;

/** $1: account. Prints \`name:uid:gid:home\`; nothing where there is none. */
export const findAccountScript = `${head}${lookUp}
look_up "$1"
[ -z "$n" ] || echo "$n:$u:$g:$h"`;

/** $1: account. Makes it where it is missing: without a password, with a home, and with the right to become root where sudo is there. Prints as above. */
export const makeAccountScript = `${head}${lookUp}
look_up "$1"
if [ -z "$n" ]; then
  n=$wanted u=
  case $wanted in *[!0-9]*) ;; *) n=user-$wanted u=$wanted ;; esac
  [ -d /etc ] || $B mkdir -m 755 /etc
  [ -e /etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
  [ -e /etc/group ] || echo 'root:x:0:' >/etc/group
  if [ -z "$u" ]; then
    u=1000
    while $B grep -q "^[^:]*:[^:]*:$u:" /etc/passwd /etc/group; do u=$((u + 1)); done
  fi
  [ -n "$g" ] || g=$u
  h=/home/$n
  shell=/bin/sh
  [ -x /bin/bash ] && shell=/bin/bash
  $B grep -q "^[^:]*:[^:]*:$g:" /etc/group || echo "$n:x:$g:" >>/etc/group || die "/etc/group cannot be written"
  echo "$n:x:$u:$g::$h:$shell" >>/etc/passwd || die "/etc/passwd cannot be written"
  [ -e /etc/shadow ] && echo "$n:*:19000:0:99999:7:::" >>/etc/shadow
  if [ ! -e "$h" ]; then
    $B mkdir -p "$h" && $B chmod 755 "$h"
    [ -d /etc/skel ] && $B cp -a /etc/skel/. "$h/"
    $B chown -Rh "$u:$g" "$h"
  fi
  if [ -d /etc/sudoers.d ]; then
    echo "$n ALL=(ALL:ALL) NOPASSWD: ALL" >"/etc/sudoers.d/roost-$n" && $B chmod 440 "/etc/sudoers.d/roost-$n"
  fi
fi
echo "$n:$u:$g:$h"`;

/** $1: folder, $2: \`uid:gid\` of what of it is missing. */
export const makeFolderScript = `${head}
target=$1 first=
[ -d "$target" ] && exit 0
at=$target
while [ ! -d "$at" ]; do
  { [ -e "$at" ] || [ -L "$at" ]; } && die "$at is not a folder"
  first=$at
  at=$($B dirname "$at")
done
$B mkdir -p "$target" || die "$target could not be made"
$B chown -R "$2" "$first"`;

/**
 * $1: folder for the unpacked files, $2: tar's flag for the compression, $3: `strict` where an archive with devices, pipes or sockets is refused. Standard input: the archive.
 *
 * BusyBox takes what leads out of an archive away from its names, and makes links that lead out of it last; hard links it makes to wherever they lead. The folder is a mount of its own
 * meanwhile, which only tar sees: a hard link never leaves its mount.
 */
export const unpackScript = `${head}
$B mkdir -m 700 "$1" || die "$1 could not be made"
said=$($B unshare -m $B sh -c '"$0" mount --bind "$1" "$1" && exec "$0" tar -x$2 -f - -C "$1"' $B "$1" "$2" 2>&1)
status=$?
case $said in
*"can't create hardlink"* | *"can't create symlink"*) die "$said: no entry may go through a link, or be a hard link to a file outside of the archive" ;;
*'removing leading'*) die "the archive has a name that leads out of it: absolute, or with '..'" ;;
esac
[ $status = 0 ] || die "\${said:-the archive could not be unpacked}"
[ "$3" = strict ] || exit 0
odd=$($B find "$1" ! -type f ! -type d ! -type l | $B head -n 1)
[ -z "$odd" ] || die "the archive has a device, a pipe or a socket: \${odd#"$1"/}"`;

/**
 * $1: folder that an archive was unpacked to, $2: what of it, relative; $3: destination, $4: \`uid:gid\` or empty (as it is), $5: mode or empty.
 *
 * A folder's content goes into the destination; folders that are there stay as they are, links to folders among them, and what else is there is replaced. Anything else becomes the destination, or
 * goes into it when that ends with \`/\` or is a folder. Within one disk all of that is renaming: no byte is written twice.
 */
export const placeScript = `${head}
root=$1 destination=$3 owner=$4 mode=$5
cd "$root" || die "nothing was unpacked"
from=$2
if [ ! -e "$from" ] && [ ! -L "$from" ]; then die "it is not in the archive"; fi
if [ -n "$owner" ]; then
  # what a change of the owner would take away is given back
  $B find "$from" -type f \\( -perm -4000 -o -perm -2000 \\) -exec $B sh -c 'for f; do m=$('$B' stat -c %a "$f"); '$B' chown "$0" "$f"; '$B' chmod "$m" "$f"; done' "$owner" {} +
  $B find "$from" ! \\( -type f \\( -perm -4000 -o -perm -2000 \\) \\) -exec $B chown -h "$owner" {} +
fi
[ -z "$mode" ] || $B find "$from" ! -type l -exec $B chmod "$mode" {} +

made_folder() {
  [ -d "$1" ] && return
  above=$1 first=$1
  while above=$($B dirname "$above"); [ ! -d "$above" ]; do first=$above; done
  $B mkdir -p "$1" || die "$1 could not be made: something of that name is no folder"
  [ -z "$owner" ] || $B chown -R "$owner" "$first"
}

merge() { # $1: folder, $2: folder that is there
  for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    { [ -e "$entry" ] || [ -L "$entry" ]; } || continue
    name=\${entry##*/}
    if [ -d "$entry" ] && [ ! -L "$entry" ]; then
      if [ -d "$2/$name" ]; then
        merge "$1/$name" "$2/$name"
        continue
      fi
      if [ -e "$2/$name" ] || [ -L "$2/$name" ]; then die "$2/$name is there and no folder"; fi
    elif [ -d "$2/$name" ] && [ ! -L "$2/$name" ]; then
      die "$2/$name is there and a folder"
    fi
    $B mv -fT "$entry" "$2/$name" || die "$2/$name could not be written"
  done
}

if [ -d "$from" ] && [ ! -L "$from" ]; then
  made_folder "$destination"
  merge "$from" "\${destination%/}"
else
  case $destination in */) made_folder "$destination" ;; *) made_folder "$($B dirname "$destination")" ;; esac
  [ -d "$destination" ] && destination=\${destination%/}/\${from##*/}
  if [ -d "$destination" ] && [ ! -L "$destination" ]; then die "$destination is there and a folder"; fi
  $B mv -fT "$from" "$destination" || die "$destination could not be written"
fi
exit 0`;

/** $1: what an earlier script unpacked. */
export const removeScript = `${head}
exec $B rm -rf "$1"`;

/** $1: a path from the root, perhaps with a pattern in it. Prints for each that there is \`d\` or \`f\`, a space, its path and a NUL. */
export const matchScript = `${head}
IFS=
for path in $1; do
  [ -e "$path" ] || [ -L "$path" ] || continue
  kind=f
  [ -d "$path" ] && [ ! -L "$path" ] && kind=d
  printf '%s %s\\0' $kind "$path"
done`;

/** $1: folder, $2: what of it. Prints it as an archive, without what other file systems are mounted in it: of `/` that would be the kernel's. Tar sees the folder as a mount of its own. */
export const packScript = `${head}
exec $B unshare -m $B sh -c '"$0" mount --bind "$1" /sys && exec "$0" tar -c -f - -C /sys "$2"' $B "$1" "$2"`;

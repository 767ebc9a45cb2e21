/**
 * Programs that read what strangers wrote (registries' answers, layers) run without any privilege: as a uid that owns nothing but the folder they work in,
 * without capabilities, and, unless they fetch something, without network. They end with this process.
 *
 * The folder is `/mnt` in a mount namespace of the program's own, because a state folder may lie where that uid cannot pass. Credentials are a file on a tmpfs
 * that exists in that namespace alone: they are on no disk, in no argument list, and gone with the program.
 */
export interface Containment {
  /** Owned by `uid`; the program's working folder, and all it may write */
  readonly folder: string;
  readonly uid: number;
  readonly hasNetwork: boolean;
  /** Standard input becomes the file `secretPath`, instead of the program's input */
  readonly hasSecret?: boolean;
}

/** Where the folder is, for the program. */
const workFolder = "/mnt";
const secretFolder = "/media";
/** What came by standard input, with `hasSecret`. */
export const secretPath = `${secretFolder}/secret`;

export function contained(command: readonly string[], where: Containment): [string, ...string[]] {
  const uid = String(where.uid);
  const script = [
    "set -eu",
    `mount --bind "$1" ${workFolder}`,
    ...(where.hasSecret === true
      ? [
          `mount -t tmpfs -o size=256k,mode=0700,uid=${uid},gid=${uid},nosuid,nodev,noexec tmpfs ${secretFolder}`,
          "umask 077",
          `cat >${secretPath}`,
          `chown ${uid}:${uid} ${secretPath}`,
        ]
      : []),
    `cd ${workFolder}`,
    "shift",
    'exec "$@"',
  ].join("; ");
  return [
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--ipc",
    ...(where.hasNetwork ? [] : ["--net"]),
    "--",
    "sh",
    "-c",
    script,
    "sh",
    where.folder,
    // Again: a change of uid takes it away
    "setpriv",
    "--pdeathsig",
    "KILL",
    "--reuid",
    uid,
    "--regid",
    uid,
    "--clear-groups",
    "--no-new-privs",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--",
    ...command,
  ];
}

/** Nothing of this process's environment, which may hold secrets, but the way to the network. */
export function containedEnvironment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  return { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", HOME: workFolder, TMPDIR: workFolder, ...extra };
}

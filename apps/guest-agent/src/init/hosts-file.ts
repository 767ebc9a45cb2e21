/** Marks the line of /etc/hosts that is ours to replace. */
const mark = "# set by the sandbox";

/** The text of a hosts file in which `name` (undefined: none) is this machine, and no earlier name of ours. */
export function hostsWith(hosts: string, name: string | undefined): string {
  const lines = hosts.split("\n").filter((line) => line !== "" && !line.endsWith(mark) && !line.includes("\0"));
  if (name !== undefined) lines.push(`127.0.1.1 ${name} ${mark}`);
  return `${lines.join("\n")}\n`;
}

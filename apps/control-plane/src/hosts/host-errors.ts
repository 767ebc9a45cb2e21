import { PlatformError } from "@roost/contract";

export function hostNotFound(id: string): PlatformError {
  return new PlatformError("host_not_found", `there is no host "${id}"; \`roost host ls\` lists those there are`);
}

export function hostChanged(id: string): PlatformError {
  return new PlatformError("host_wrong_state", `host ${id} was changed by somebody else at the same moment; look at it and try again`);
}

export function hostNameTaken(name: string): PlatformError {
  return new PlatformError("host_exists", `name: there is a host "${name}" already; choose another name`);
}

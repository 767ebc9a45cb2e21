/** Version of the control plane, as `/health`, `/openapi.json` and `/metrics` say it. */
export const controlPlaneVersion = "0.1.0";

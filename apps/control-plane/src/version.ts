/** Version of the control plane, as `/openapi.json` and `/metrics` say it. */
export const controlPlaneVersion = "0.1.0";

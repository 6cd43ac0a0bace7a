import { RealtimeError } from "./error.js";

export async function call(env, path, { headers, ...init }) {
	const { fetch, url, token, credentials = token ? "same-origin" : "include" } = env;
	if (token) headers = { ...headers, authorization: `Bearer ${token}` };
	const response = await fetch(url + path, { cache: "no-store", credentials, headers, ...init });
	if (response.ok) return response;
	const { status } = response;
	const retry_after = +response.headers.get("retry-after") || undefined;
	const said = await response.json().catch(() => {});
	// Not of a proxy; a URL may be shorter next time.
	const own = said?.type === "error" && status !== 431;
	const error = RealtimeError.of(own ? said : { code: "UNAVAILABLE", message: `HTTP ${status}`, retry_after });
	throw Object.assign(error, { status: own ? status : 502 });
}

export const wish = ({ type, id, ...wanted }) => ["sub", JSON.stringify(wanted)];

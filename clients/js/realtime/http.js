import { RealtimeError } from "./error.js";

export async function call({ fetch, url, token }, path, { headers, ...init }) {
	// A server for every origin refuses cookies.
	const credentials = token ? "same-origin" : "include";
	if (token) headers = { ...headers, authorization: `Bearer ${token}` };
	const response = await fetch(url + path, { cache: "no-store", credentials, headers, ...init });
	if (response.ok) return response;
	const { status } = response;
	const retry_after = +response.headers.get("retry-after") || undefined;
	const said = await response.json().catch(() => {});
	throw Object.assign(RealtimeError.of({ code: "UNAVAILABLE", message: `HTTP ${status}`, retry_after, ...said }), {
		status,
	});
}

export const wish = ({ type, id, ...wanted }) => ["sub", JSON.stringify(wanted)];

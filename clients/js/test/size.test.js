import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const root = new URL("../", import.meta.url);
const files = ["realtime.js", ...readdirSync(new URL("realtime", root)).map((name) => `realtime/${name}`)].sort();
/** Loaded only where tabs share a connection. */
const lazy = /tabs|hub|worker/;

test("what a page loads is small as it is, and what tabs load on top", (t) => {
	const size = (names) =>
		gzipSync(Buffer.concat(names.map((name) => readFileSync(new URL(name, root)))), { level: 9 }).length;
	const [page, all] = [size(files.filter((name) => !lazy.test(name))), size(files)];
	t.diagnostic(`${page} bytes for a page, ${all} with shared tabs, after gzip -9`);
	assert.ok(page <= 10_240);
	assert.ok(all <= 13_312);
});

test("the package has the version of the server", () => {
	const { version } = JSON.parse(readFileSync(new URL("package.json", root)));
	const python = readFileSync(new URL("../../realtime/__init__.py", root), "utf8");
	assert.equal(version, /__version__ = "(.+)"/.exec(python)[1]);
});

// Real SSE libraries of several languages go through the same scenarios. LIBRARIES=Go,Chromium: only those whose name holds it.

import { test } from "node:test";
import { libraries } from "./libraries.mjs";
import { scenarios } from "./scenarios.mjs";

/** Scenarios at a time: they wait more than they work. */
const AT_A_TIME = 8;

const chosen = process.env.LIBRARIES?.split(",");
const selected = libraries.filter(({ name }) => chosen === undefined || chosen.some((part) => name.includes(part)));

test("libraries", { concurrency: AT_A_TIME }, async (t) => {
  const there = await Promise.all(selected.map((library) => library.isThere()));
  await Promise.all(
    selected.flatMap((library, at) => {
      const skip = !there[at] && `this machine lacks what it needs: ${library.needs}`;
      if (skip) return [t.test(library.name, { skip })];
      return Object.entries(scenarios).map(([scenario, run]) =>
        t.test(`${library.name}: ${scenario}`, async (t) => {
          await library.prepare?.();
          await run(t, library);
        }),
      );
    }),
  );
});

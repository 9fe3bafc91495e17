/** Reads what the server says, and steps over a publication that cannot be read: what comes after it can. */

/** Undefined, if it is no JSON. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {}
}

/** One object. Of one that cannot be read its head can be, before the payload, and the cursor behind that. */
export const objectOf = (text) =>
  parsed(text) ?? {
    ...parsed(text.split(',"data":')[0] + "}"),
    type: "illegible",
    cursor: /"cursor":"([^"]*)"}$/.exec(text)?.[1],
  };

/** An answer; its list is read one by one, if it cannot be read as a whole. */
export function answerOf(text) {
  const answer = parsed(text);
  if (answer) return answer;
  const start = text.indexOf("[") + 1;
  const end = text.lastIndexOf("],");
  const parts = text.slice(start, end).split(/,(?={"type":")/);
  const publications = [];
  while (parts[0]) {
    let one;
    let taken = 0;
    // A payload may have in it what parts two of them.
    while (!one && parts[taken]) one = parsed(parts.slice(0, ++taken).join());
    publications.push(one ?? objectOf(parts[0]));
    parts.splice(0, one ? taken : 1);
  }
  return { ...parsed(text.slice(0, start) + text.slice(end)), publications };
}

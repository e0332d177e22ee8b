// The states of a slice: a letter, and what it means.

export const STATES = {
  closed: ["✓", "closed", "complete, and settled"],
  open: ["O", "open", "complete when it was fetched, but not settled; it is fetched again"],
  failed: ["F", "failed", "the last attempt failed; the lake keeps what it had"],
  interrupted: ["I", "interrupted", "a run ended while it was published; it is fetched again"],
  damaged: ["D", "damaged", "its ledger entry cannot be used"],
  missing: ["M", "missing", "not fetched"],
  pruned: ["P", "pruned", "removed for its age"],
};
/** Of several states, the one to show: the last in this order. */
const ORDER = ["closed", "pruned", "open", "interrupted", "failed", "damaged", "missing"];
export const worst = (states) =>
  states.reduce((a, b) => (ORDER.indexOf(b) > ORDER.indexOf(a) ? b : a), "closed");
export const letter = (state) => (STATES[state] ?? ["?"])[0];
/** Whether the lake may have no rows of a slice in this state. */
export const is_unknown = (state) => !["closed", "open", "failed"].includes(state);

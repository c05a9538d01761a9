// What a user can mend.

/** An error whose message is one sentence for the page; anything else is a defect of the page. */
export class Problem extends Error {}

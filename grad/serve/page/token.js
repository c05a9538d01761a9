// The dialog that asks for the server's token.

const $ = (id) => document.getElementById(id);

/** Ask for the token; once more where it was wrong. */
export function askToken(wrong) {
  $("token-text").textContent = wrong
    ? "That token is wrong: try again."
    : "This server asks for the token that it was started with.";
  $("token").value = "";
  $("token-dialog").oncancel = (event) => event.preventDefault();
  $("token-dialog").showModal();
  return new Promise((done) => {
    $("token-form").onsubmit = () => done($("token").value.trim());
  });
}

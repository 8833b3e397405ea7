// Keys 1 to 4 judge, u takes the last judgement back, c opens the captions; not while something is typed or a picture is
// enlarged, and never by holding a key down.
(() => {
  const buttons = { 1: "a-better", 2: "b-better", 3: "tie", 4: "both-bad", u: "undo", c: "captions" };
  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select, [contenteditable=true]")) return;
    if (document.querySelector("dialog[open]")) return;
    const button = document.getElementById(buttons[event.key.toLowerCase()]);
    if (!button || button.disabled || button.offsetParent === null) return;
    event.preventDefault();
    button.click();
    document.activeElement.blur(); // a button clicked for an earlier pair must not look chosen, nor answer to Enter
  });
  // Whoever read the captions judged with them: kept with the judgement, also when they are closed again.
  document.addEventListener("toggle", ({ target }) => {
    if (target.open && target.matches(".captions")) target.dataset.opened = "yes";
  }, true);
})();

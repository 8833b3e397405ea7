// Keys 1 to 4 judge, u takes the last judgement back; not while something is typed, and never by holding a key down.
(() => {
  const buttons = { 1: "a-better", 2: "b-better", 3: "tie", 4: "both-bad", u: "undo" };
  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select, [contenteditable=true]")) return;
    const button = document.getElementById(buttons[event.key.toLowerCase()]);
    if (!button || button.disabled || button.offsetParent === null) return;
    event.preventDefault();
    button.click();
    document.activeElement.blur(); // a button clicked for an earlier pair must not look chosen, nor answer to Enter
  });
})();

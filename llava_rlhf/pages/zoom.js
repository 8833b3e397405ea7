// A click on a picture of the pair shows it as large as the window: wheel, pinch, buttons and + - 0 zoom, dragging and
// arrow keys move, Escape closes. A modal dialog: the page behind it hears neither keys nor clicks.
(() => {
  const MOST = 40, STEP = 1.4, NUDGE = 60;
  const fingers = new Map(); // pointer → where it is
  let dialog, image, scale, left, top;

  const show = () => {
    image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    dialog.querySelector("output").textContent = `${Math.round(scale * 100)} %`;
  };
  const move = (x, y) => { // at most until the picture's middle is at the edge of the window
    const [width, height] = [image.offsetWidth * scale / 2, image.offsetHeight * scale / 2];
    left = Math.max(-width, Math.min(width, left + x));
    top = Math.max(-height, Math.min(height, top + y));
    show();
  };
  const whole = () => { [scale, left, top] = [1, 0, 0]; show(); };
  const zoom = (factor, clientX = innerWidth / 2, clientY = innerHeight / 2) => {
    const box = image.parentElement.getBoundingClientRect(); // what is under the pointer stays there
    const [x, y] = [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
    const before = scale;
    scale = Math.max(1, Math.min(MOST, scale * factor));
    [left, top] = [x - (x - left) * scale / before, y - (y - top) * scale / before];
    scale === 1 ? whole() : move(0, 0);
  };
  const keys = {
    "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), 0: whole,
    ArrowLeft: () => move(NUDGE, 0), ArrowRight: () => move(-NUDGE, 0),
    ArrowUp: () => move(0, NUDGE), ArrowDown: () => move(0, -NUDGE),
  };

  const drag = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    fingers.set(event.pointerId, event);
    if (!other) return move(event.clientX - before.clientX, event.clientY - before.clientY);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
    zoom(apart(event) / apart(before), (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
  };

  const build = () => {
    dialog = document.createElement("dialog");
    dialog.id = "zoom";
    dialog.setAttribute("aria-label", "Enlarged picture");
    dialog.innerHTML = `<div class="stage"><img draggable="false"></div><div class="tools">
      <button data-key="-" aria-label="Smaller">−</button><output aria-live="off"></output>
      <button data-key="+" aria-label="Larger">+</button><button data-key="0">Whole</button>
      <button data-key="close" autofocus>Close (Esc)</button></div>`;
    document.body.append(dialog);
    image = dialog.querySelector("img");
    const stage = dialog.querySelector(".stage");
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.clientX, event.clientY);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, event);
    });
    stage.addEventListener("pointermove", drag);
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
    stage.addEventListener("dblclick", (event) => scale > 1 ? whole() : zoom(STEP ** 3, event.clientX, event.clientY));
    dialog.addEventListener("keydown", (event) => keys[event.key] && (event.preventDefault(), keys[event.key]()));
    dialog.querySelector(".tools").addEventListener("click", ({ target: { dataset: { key } } }) =>
      key === "close" ? dialog.close() : keys[key]?.());
  };

  document.addEventListener("click", (event) => {
    const picture = event.target.closest?.(".pictures button")?.querySelector("img");
    if (!picture) return;
    if (!dialog) build();
    [image.src, image.alt] = [picture.src, picture.alt];
    fingers.clear();
    dialog.showModal();
    whole();
  });
})();

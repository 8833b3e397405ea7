"use strict";
// A picture, large: click or Enter opens it, the wheel and + − zoom, dragging and the arrow keys move, Escape closes.
const viewer = element("dialog", undefined, "viewer");
const large = element("img"), place = { scale: 1, x: 0, y: 0 };
large.draggable = false;
const closer = element("button", "Close");
const caption = element("p", undefined, "name");
viewer.append(caption, closer);
document.body.append(viewer);

function put(scale, x, y) {
  Object.assign(place, { scale: Math.min(16, Math.max(1, scale)), x, y });
  if (place.scale === 1) Object.assign(place, { x: 0, y: 0 });
  large.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
}

function enlarge(picture) {
  viewer.prepend(large);
  large.src = picture.src;
  large.alt = picture.alt;
  caption.textContent = picture.alt;
  large.classList.toggle("pixels", picture.naturalWidth <= 64); // a small picture: every pixel as a square
  put(1, 0, 0);
  viewer.showModal();
}

// Whatever lies under the pointer stays there.
function zoom(factor, x = 0, y = 0) {
  const scale = Math.min(16, Math.max(1, place.scale * factor)), ratio = scale / place.scale;
  put(scale, x - (x - place.x) * ratio, y - (y - place.y) * ratio);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.zoom");
  if (button) enlarge(button.querySelector("img"));
});
closer.addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
viewer.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - viewer.clientWidth / 2, event.clientY - viewer.clientHeight / 2);
}, { passive: false });
large.addEventListener("pointerdown", (event) => large.setPointerCapture(event.pointerId));
large.addEventListener("pointermove", (event) => event.buttons && put(place.scale, place.x + event.movementX, place.y + event.movementY));
viewer.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
  if (moves) put(place.scale, place.x + moves[0], place.y + moves[1]);
  if (event.key === "+") zoom(1.2);
  if (event.key === "-") zoom(1 / 1.2);
});

"use strict";
// The table of rollouts. Whatever comes from the run is set as text, never as markup.
const { rows, images } = page;
const PAGE = 20;
const TERMS = [["reward model", "reward_model"], ["stop penalty", "stop_penalty"], ["length bonus", "length_bonus"],
  ["correct bonus", "correct_bonus"], ["things named, or claims", "fact_mentions"], ["facts covered", "fact_coverage"], ["KL", "kl"], ["KL penalty", "kl_penalty"], ["score plus KL penalty", "penalized"]];
const words = rows.map((row) =>
  [row.question, row.response, row.id, ...row.captions, ...row.image].join("\n").toLowerCase());
let turned = 0;

function chosen() {
  const type = find("answer-type").value, step = find("step").value;
  const searched = find("search").value.trim().toLowerCase();
  const key = find("sort").value, order = Number(find("order").value);
  const kept = rows.filter((row, place) => (!type || row.answer_type === type) && (!step || row.step === Number(step))
    && words[place].includes(searched));
  // What has no number comes last in either order.
  return kept.sort((a, b) => (a[key] === null) - (b[key] === null) || order * (a[key] - b[key]) || a.step - b.step);
}

function pictures(row) {
  const cell = element("td");
  for (const name of row.image) {
    if (images[name]) {
      const picture = element("img");
      picture.src = images[name];
      picture.alt = name;
      const button = element("button", undefined, "zoom");
      button.type = "button";
      button.setAttribute("aria-label", `enlarge ${name}`);
      button.append(picture);
      cell.append(button);
    }
    cell.append(element("span", name, "name"));
  }
  return cell;
}

// The response, each thing that it names in the colour of what became of it. Places count characters, not UTF-16 units.
function marked(row) {
  const letters = Array.from(row.response), made = element("p", "", "words response");
  let last = 0;
  for (const [start, end, verdict] of row.mentions) {
    const thing = element("span", letters.slice(start, end).join(""), verdict);
    thing.title = verdict;
    made.append(letters.slice(last, start).join(""), thing);
    last = end;
  }
  made.append(letters.slice(last).join(""));
  return made;
}

function texts(row) {
  const cell = element("td");
  for (const [label, text, kind] of [["question", row.question, "question"],
    ["captions the reward model saw", row.captions.join("\n"), "captions"], ["response", row.response, "response"]]) {
    if (text || kind === "response") {
      const shown = kind === "response" ? marked(row) : element("p", text, `words ${kind}`);
      cell.append(element("span", label, "label"), shown);
    }
  }
  return cell;
}

function end(row) {
  const cell = element("td");
  cell.append(element("span", "answer type", "label"), element("span", row.answer_type, "type"),
    element("span", "ended by", "label"), element("span", row.stop_reason),
    element("span", "tokens", "label"), element("span", row.length === null ? "—" : String(row.length)));
  return cell;
}

function terms(row) {
  const cell = element("td"), list = element("dl");
  for (const [label, key] of TERMS) {
    if (key.startsWith("fact_") && row[key] === null) continue;
    list.append(element("dt", label), element("dd", number(row[key]), row[key] < 0 && key !== "kl" ? "below" : ""));
  }
  cell.append(list);
  return cell;
}

function line(row) {
  const made = element("tr"), step = element("td", String(row.step)), score = element("td", number(row.score), "number");
  step.dataset.label = "step";
  score.dataset.label = "score";
  made.append(step, pictures(row), texts(row), end(row), score, terms(row));
  return made;
}

function show(first = 0) {
  const kept = chosen(), pages = Math.max(1, Math.ceil(kept.length / PAGE));
  turned = Math.min(Math.max(first, 0), pages - 1);
  const shown = kept.slice(turned * PAGE, (turned + 1) * PAGE);
  find("rows").replaceChildren(...shown.map(line));
  find("count").textContent = kept.length
    ? `${turned * PAGE + 1} to ${turned * PAGE + shown.length} of ${kept.length} rollouts` : "No rollout matches.";
  find("page").textContent = `page ${turned + 1} of ${pages}`;
  find("previous").disabled = turned === 0;
  find("next").disabled = turned === pages - 1;
  const byScore = find("sort").value === "score";
  find("worst").setAttribute("aria-pressed", String(byScore && find("order").value === "1"));
  find("best").setAttribute("aria-pressed", String(byScore && find("order").value === "-1"));
}

function byScore(order) {
  find("sort").value = "score";
  find("order").value = order;
  show();
}

function turn(by) {
  show(turned + by);
  find("count").scrollIntoView();
}

for (const id of ["answer-type", "step", "sort", "order"]) find(id).addEventListener("change", () => show());
find("search").addEventListener("input", () => show());
find("controls").addEventListener("submit", (event) => event.preventDefault());
find("worst").addEventListener("click", () => byScore("1"));
find("best").addEventListener("click", () => byScore("-1"));
find("previous").addEventListener("click", () => turn(-1));
find("next").addEventListener("click", () => turn(1));
for (const [id, value] of [["answer-type", ""], ["step", ""], ["search", ""]]) find(id).value = value;
byScore("1");

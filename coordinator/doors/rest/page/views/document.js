// The document of a job, with all defaults filled in.

import { path } from "../api.js";
import { h } from "../dom.js";
import { card } from "../parts.js";

export function documentTab(page) {
  const text = JSON.stringify(page.data.job.spec, null, 2);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      page.tell("The document is on the clipboard.");
    } catch {
      page.tell("This browser lets no page write to the clipboard; select the text and copy it.", true);
    }
  };
  return card("Document, with all defaults",
    h("div", { class: "choices" }, h("button", { onclick: copy }, "Copy"), h("a", { class: "button", href: `#/launch/${path(page.id)}` }, "Clone and edit")),
    h("pre", { tabindex: 0, "aria-label": "Document of the job" }, text));
}

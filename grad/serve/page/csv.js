// Tables for other programs: the columns of predictions.csv, as `grad predict` writes it.

export const COLUMNS = [
  "name", "class_name", "score", "value", "threshold", "is_anomalous", "p_value", "p_resolution",
  "map_maximum", "regions", "width", "height", "time", "model", "model_version",
];
const DIGITS = 5; // of numbers that are not whole

/** Whether this browser's user writes 1,5 and not 1.5. */
export function hasDecimalComma() {
  return (1.5).toLocaleString().includes(",");
}

/** Objects as CSV; with a decimal comma as spreadsheets of such countries open it: `;` between
 * cells, and a mark that says UTF-8. */
export function csv(objects, decimalComma) {
  const separator = decimalComma ? ";" : ",";
  const rows = [COLUMNS, ...objects.map((object) => COLUMNS.map((name) => object[name]))];
  const lines = rows.map((row) => row.map((value) => cell(value, decimalComma)).join(separator));
  return (decimalComma ? "\ufeff" : "") + lines.join("\r\n") + "\r\n";
}

/** A cell that spreadsheets take as text or number, never as a formula. */
function cell(value, decimalComma) {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") {
    const text = String(Number.isInteger(value) ? value : Number(value.toPrecision(DIGITS)));
    return decimalComma ? text.replace(".", ",") : text;
  }
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

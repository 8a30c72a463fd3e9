// Writes a dashboard as TypeScript, in which each part has its type of @grafana/schema: the compiler then
// names each property that Grafana does not know, and each value of another type.
//
//     node types.mjs DASHBOARD.json SCHEMA > dashboard.ts      SCHEMA: the folder of the package

import { readFileSync } from "node:fs";

const [path, schema] = process.argv.slice(2);
const dashboard = JSON.parse(readFileSync(path, "utf8"));
const types = `${schema}/dist/types/raw`;

// Query and texts of an annotation belong to its data source, and the schema has no types for them.
for (const annotation of dashboard.annotations?.list ?? []) {
    for (const name of ["expr", "step", "titleFormat", "textFormat"]) delete annotation[name];
}

const withRows = (panels) => panels.flatMap((panel) => [panel, ...withRows(panel.panels ?? [])]);
const panels = withRows(dashboard.panels).filter((panel) => panel.type !== "row");
const kinds = [...new Set(panels.map((panel) => panel.type))];

const lines = [
    `import type { Dashboard } from "${types}/dashboard/x/types.gen";`,
    ...kinds.map((kind) => `import type * as ${kind} from "${types}/composable/${kind}/panelcfg/x/types.gen";`),
    // A value of an enum is a text in JSON.
    "type Plain<T> = T extends string ? (string extends T ? string : `${T}`)",
    "  : T extends Array<infer E> ? Array<Plain<E>>",
    "  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
    `export const dashboard: Plain<Dashboard> = ${JSON.stringify(dashboard, null, 1)};`,
];
panels.forEach((panel, at) => {
    const part = (name, type, value) =>
        value && lines.push(`export const ${name}${at}: Plain<Partial<${panel.type}.${type}>> = ${JSON.stringify(value, null, 1)};`);
    part("options", "Options", panel.options);
    part("custom", "FieldConfig", panel.fieldConfig?.defaults?.custom);
});
console.log(lines.join("\n"));

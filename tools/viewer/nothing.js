// In place of a package that writes XML, which the viewer does not.
export const create = undefined;

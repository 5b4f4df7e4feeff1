// Makes classes of the AsyncAPI document on standard input in several languages. Prints, by language, the members of
// each class with the name in the first argument.
const modelina = require("@asyncapi/modelina");

const LANGUAGES = ["TypeScript", "Java", "Kotlin", "CSharp", "Go", "Python"];

async function main() {
  const document = JSON.parse(require("fs").readFileSync(0));
  const made = {};
  for (const language of LANGUAGES) {
    const models = await new modelina[`${language}Generator`]().generate(document);
    made[language] = models
      .filter((it) => it.modelName === process.argv[2])
      .map((it) => Object.values(it.model.properties ?? {}).map((property) => property.unconstrainedPropertyName));
  }
  console.log(JSON.stringify(made));
}

main();

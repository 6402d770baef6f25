"""`python -m deploy.docs.main [FOLDER]`: write the AsyncAPI and OpenAPI documents; `make docs` does it into docs/."""

import sys
from pathlib import Path

from deploy.docs.asyncapi import write_asyncapi
from deploy.docs.openapi import APIS, write_openapi


def write_documents() -> dict[str, str]:
    """Each document by its file name."""
    return {
        "asyncapi.yaml": write_asyncapi(),
        **{f"openapi-{service}.json": write_openapi(service) for service in APIS},
    }


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in write_documents().items():
        (folder / name).write_text(text, "utf-8")
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs"))

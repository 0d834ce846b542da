"""How the configs of agents and coordinator say which columns of a file matter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from fedgalore.data.examples import SplitFile
from fedgalore.spec.template import check_column


class ColumnNames(BaseModel):
    """Columns that make the examples of a file; none for a folder of images by class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[tuple[str, ...], Field(max_length=2)] = Field(
        default=(), description="One column, or two for pairs"
    )
    image: str | None = Field(default=None, description="Column with an image's path, relative to the table's folder")
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    tokens: str | None = Field(default=None, description="Column with a text's words, a list")
    tags: str | None = Field(default=None, description="Column with the words' classes, a list as long")
    messages: str | None = Field(default=None, description="Column with a conversation, a list of role and content")
    columns: Annotated[dict[Annotated[str, AfterValidator(check_column)], str], Field(max_length=1000)] = Field(
        default={}, description="Columns that a job's template may name: a list, or a mapping of its names to columns"
    )
    quoting: bool = Field(default=True, description="Whether quotes in CSV/TSV files enclose fields")
    follow_links: bool = Field(default=False, description="Whether images may be links to files in other folders")

    @field_validator("text", mode="before")
    @classmethod
    def _as_columns(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        return {name: name for name in names} if is_list else value

    def split_file(self, path: Path) -> SplitFile:
        """How to read one of the files.

        Raises:
            ValueError: the columns make no examples.
        """
        return SplitFile(
            path,
            self.text,
            self.image,
            self.label,
            self.prompt,
            self.completion,
            self.quoting,
            follow_links=self.follow_links,
            tokens=self.tokens,
            tags=self.tags,
            messages=self.messages,
            for_templates=self.columns,
        )

"""What the newsroom composes of stages."""

import msgspec

from pipelines import Pipeline, stage


class Issue(msgspec.Struct):
    """An issue of the newsletter."""

    title: str
    topics: list[str]


class Article(msgspec.Struct):
    """One article of an issue."""

    title: str
    topic: str
    text: str = ""


@stage
def plan(issue: Issue) -> list[Article]:
    """One article for each topic."""
    return [Article(issue.title, topic) for topic in dict.fromkeys(issue.topics)]


@stage(queue="processing", retries=2)
def write(article: Article) -> Article:
    """Write an article; all articles of an issue are written at the same time."""
    return msgspec.structs.replace(article, text=f"All about {article.topic}.")


@stage
def lay_out(articles: list[Article]) -> dict[str, str]:
    """Put the articles together, in the order of their topics."""
    body = "\n\n".join(f"## {article.topic}\n{article.text}" for article in articles)
    title = articles[0].title if articles else "An empty issue"
    return {"newsletter": f"# {title}\n\n{body}"}


newsletter = Pipeline("newsletter", plan | write.map() | lay_out)

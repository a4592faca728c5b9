"""The plots of the page, as plotly's figures; text and grid get their colours from the page."""

import json

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

# After Okabe and Ito's, which colour-blind people tell apart too; neither too light for white paper
# nor too dark for black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c0609a", "#7b6fd0", "#a6761d", "#1b95a8", "#7f7f7f")
MEASURES = {"loss": "loss", "lrap": "LRAP", "lwlrap": "lwlrap", "learning_rate": "learning rate"}


def learning_curves(histories: dict[tuple[str, str], pd.DataFrame]) -> dict[str, dict]:
    """A figure for each measure: all trainings, the folds of an experiment in one colour.

    histories : by experiment and part ("pretrained", "fold0", ...); columns as of history.csv
    """
    keys = ["experiment", "part"]
    table, figures = pd.concat(histories, names=keys).reset_index(keys), {}
    table["epoch"] += 1
    table["kind"] = np.where(table["part"] == "pretrained", "pretraining", "training")
    for measure, title in MEASURES.items():
        figure = px.line(
            table,
            x="epoch",
            y=measure,
            color="experiment",
            line_dash="kind",
            line_dash_map={"training": "solid", "pretraining": "dot"},
            line_group="part",
            hover_name="part",
            labels={measure: title},
            color_discrete_sequence=COLOURS,
        )
        figure.update_traces(line_width=1.5)
        if measure == "learning_rate":
            figure.update_yaxes(type="log", dtick="D2", tickformat=".0e")
        figures[measure] = _plain(figure)
    return figures


def reliability_diagram(tables: dict[str, pd.DataFrame]) -> dict:
    """How often what has a probability is there, beside the diagonal; points for each table."""
    diagonal = go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="as it should be")
    figure = go.Figure(diagonal.update(line={"dash": "dot", "color": "#7f7f7f"}, hoverinfo="skip"))
    for (name, table), colour in zip(tables.items(), COLOURS, strict=False):
        figure.add_scatter(
            x=table["probability"],
            y=table["share"],
            name=name,
            mode="markers",  # no line: it would join bins of one tag and of thousands alike
            marker_color=colour,
            marker_size=5 + 4 * np.log10(table["count"]),
            customdata=table["count"],
            hovertemplate="said %{x:.0%}, there %{y:.0%} of %{customdata:,}",
        )
    axis = {"range": [0, 1.02], "tickformat": ".0%"}
    figure.update_layout(
        xaxis={"title": "probability", **axis}, yaxis={"title": "share that is there", **axis}
    )
    return _plain(figure)


def searched(figures: list[go.Figure]) -> dict[str, dict]:
    """Optuna's plots of a search, by title ("optimization-history-plot")."""
    titles = ["-".join(figure.layout.title.text.lower().split()) for figure in figures]
    for figure in figures:
        figure.update_layout(title=None)
    return {title: _plain(figure) for title, figure in zip(titles, figures, strict=True)}


def _plain(figure: go.Figure) -> dict:
    figure.update_layout(
        template="none", legend_title="", margin={"l": 56, "r": 8, "t": 8, "b": 44}
    )
    return json.loads(figure.to_json())

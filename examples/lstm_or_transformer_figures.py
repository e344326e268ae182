"""The sections of `lstm_or_transformer.py`: what was measured as text, table and figure."""

from __future__ import annotations

import numpy as np
from figure_page import BLUE, GREY, VERMILION, Section, text_table
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogFormatter, NullLocator

COLOURS = {"LSTM": BLUE, "Transformer": VERMILION}
STYLES = {"float32": "-", "dynamic_int8": "--"}
MARKS = {"float32": "o", "dynamic_int8": "s"}
MIB = 2**20


def quartiles(low, middle, high, digits):
    """A median with its quartiles as text."""
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# --- Time and memory by length ---


def length_section(report):
    """Every file by length: time with quartiles, memory, and the attention scores' share of it."""
    rows = []
    for recipe, row in report["recipes"].items():
        for i, length in enumerate(report["lengths"]):
            times = [quartiles(*np.array(row["time_ms"][layer])[:, i], 4) for layer in COLOURS]
            memory = [f"{row['peak_bytes'][layer][i] / MIB:.2f}" for layer in COLOURS]
            cells = (recipe, length, *times, quartiles(*np.array(row["time_ratio"])[:, i], 2), *memory)
            rows.append([*cells, f"{report['score_bytes'][i] / MIB:.3f}"])
    header = ("recipe", "T", "LSTM ms", "Transformer ms", "LSTM / Transformer", "LSTM MiB", "Transf. MiB", "scores MiB")
    shortest, longest = report["lengths"][0], report["lengths"][-1]
    sentences = [
        f"{recipe}: at T = {shortest} the LSTM takes {row['time_ratio'][1][0]:.2f} times as long as the Transformer, "
        f"at T = {longest} {row['time_ratio'][1][-1]:.2f} times; it needs "
        f"{row['peak_bytes']['LSTM'][0] / row['peak_bytes']['Transformer'][0]:.2f} times the memory at T = {shortest}, "
        f"and {row['peak_bytes']['LSTM'][-1] / row['peak_bytes']['Transformer'][-1]:.2f} times at T = {longest}."
        for recipe, row in report["recipes"].items()
    ]
    params = report["params"]
    text = (
        f"Parameters: LSTM {params['LSTM']:,}, Transformer {params['Transformer']:,} (feed-forward width "
        f"{report['hidden_width']}), a difference of {params['Transformer'] / params['LSTM'] - 1:+.2%}. One sequence, "
        f"one thread, {report['rounds']} rounds on {report['machine']}.\n\n" + "\n\n".join(sentences)
    )
    return Section(
        "length",
        "Time and memory by length",
        text,
        text_table(header, rows),
        _length_figure(report),
        "Median time of a sequence with quartiles, and the memory that a file adds to a process at most. Rings mark "
        "the crossovers. Dotted: the bytes of one tensor of attention scores, heads x T x T x 4.",
    )


def _length_figure(report):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    lengths = report["lengths"]
    for recipe, row in report["recipes"].items():
        for layer, colour in COLOURS.items():
            low, middle, high = row["time_ms"][layer]
            look = {"color": colour, "ls": STYLES[recipe], "marker": MARKS[recipe], "ms": 4}
            left.plot(lengths, middle, label=f"{layer}, {recipe}", **look)
            left.fill_between(lengths, low, high, color=colour, alpha=0.2, lw=0)
            right.plot(lengths, np.array(row["peak_bytes"][layer]) / MIB, **look)
        _ring(left, lengths, row["time_ms"]["Transformer"][1], row["time_crossover"])
        _ring(right, lengths, np.array(row["peak_bytes"]["Transformer"]) / MIB, row["memory_crossover"])
    floor = right.get_ylim()[0]
    right.plot(lengths, np.array(report["score_bytes"]) / MIB, ":", color=GREY, lw=2, label="attention scores alone")
    for axes, label in ((left, "time of a sequence in ms"), (right, "memory in MiB")):
        _by_length(axes, lengths)
        axes.set_ylabel(label)
        _logarithmic(axes)
        axes.legend(loc="upper left")
    right.set_ylim(bottom=max(floor, min(map(min, _peaks(report))) / MIB / 2))
    return figure


def _peaks(report):
    return [peaks for row in report["recipes"].values() for peaks in row["peak_bytes"].values()]


def _by_length(axes, lengths):
    """A logarithmic axis of lengths, with the lengths measured as its ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, labels=list(map(str, lengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("length of the sequence, T")


def _logarithmic(axes):
    """A logarithmic vertical axis with plain numbers; those between powers too where few of them are in sight."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _ring(axes, lengths, values, crossover):
    """Marks a crossover on the line through `values`."""
    if crossover is None:
        return
    place = np.exp(np.interp(np.log(crossover), np.log(lengths), np.log(values)))
    axes.plot(crossover, place, "o", ms=11, mfc="none", mec="black", mew=1.5, zorder=5)


# --- Crossover and growth ---


def crossover_section(report):
    """Which one from which length on, and how both grow."""
    rows = []
    for recipe, row in report["recipes"].items():
        rows.append([f"{recipe}, time", _crossing(row, report["rounds"]), *_two(row["time_growth"])])
        rows.append([f"{recipe}, memory", _length(row["memory_crossover"]), *_two(row["memory_growth"])])
    work = report["multiplications_growth"]
    rows.append(["multiplications", "-", *_two(work)])
    header = ("", "crossover at T (quartiles of rounds)", "growth of LSTM", "growth of Transformer")
    sentences = [_sentence(report, recipe, row) for recipe, row in report["recipes"].items()]
    sentences.append(
        f"Between the same lengths the multiplications grow with T^{work['LSTM']:.2f} and T^{work['Transformer']:.2f}: "
        f"where time grows faster than that, a multiplication costs the more, the longer the sequence."
    )
    return Section(
        "crossover",
        "The crossover, and how both grow",
        "\n\n".join(sentences),
        text_table(header, rows),
        _crossover_figure(report),
        "Time of the LSTM divided by that of the Transformer in the same round, median and quartiles: above 1 the "
        "Transformer is the faster one, below 1 the LSTM.",
    )


def _two(growths):
    return [f"T^{growths[layer]:.2f}" for layer in COLOURS]


def _length(crossover):
    return "none" if crossover is None else f"{crossover:.0f}"


def _crossing(row, rounds):
    """The crossover in time, the quartiles of the rounds', and how many rounds had one."""
    if row["time_crossover_quartiles"] is None:
        return _length(row["time_crossover"])
    low, high = row["time_crossover_quartiles"]
    some = "" if row["rounds_that_cross"] == rounds else f", {row['rounds_that_cross']} of {rounds} rounds"
    return f"{_length(row['time_crossover'])} ({low:.0f} to {high:.0f}{some})"


def _sentence(report, recipe, row):
    """What the crossovers of a recipe mean, in words."""
    time = row["time_ratio"][1][-1]
    memory = row["peak_bytes"]["LSTM"][-1] / row["peak_bytes"]["Transformer"][-1]
    growth, before = row["time_growth"], report["lengths"][-2]
    return (
        f"{recipe}: {_verdict(report, row['time_crossover'], time, 'is the faster one')}; "
        f"{_verdict(report, row['memory_crossover'], memory, 'needs less memory')}. From T = {before} to "
        f"{report['lengths'][-1]} the LSTM's time grows with T^{growth['LSTM']:.2f} and the Transformer's with "
        f"T^{growth['Transformer']:.2f}, their memory with T^{row['memory_growth']['LSTM']:.2f} and "
        f"T^{row['memory_growth']['Transformer']:.2f}."
    )


def _verdict(report, crossover, ratio_at_longest, what):
    winner = "LSTM" if ratio_at_longest < 1 else "Transformer"
    if crossover is None:
        return f"at all lengths up to {report['lengths'][-1]} the {winner} {what}"
    return f"from T = {crossover:.0f} on the {winner} {what}"


def _crossover_figure(report):
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for recipe, row in report["recipes"].items():
        low, middle, high = row["time_ratio"]
        look = {"color": "black" if recipe == "float32" else GREY, "ls": STYLES[recipe], "marker": MARKS[recipe]}
        crossover = row["time_crossover"]
        label = f"{recipe}, {'no crossover' if crossover is None else f'crossover at T = {crossover:.0f}'}"
        axes.plot(report["lengths"], middle, ms=4, label=label, **look)
        axes.fill_between(report["lengths"], low, high, color=look["color"], alpha=0.2, lw=0)
    axes.axhline(1.0, color=BLUE, lw=1)
    _by_length(axes, report["lengths"])
    limits = axes.get_ylim()
    axes.set_yscale("log", base=2)
    ticks = [tick for tick in (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0) if limits[0] <= tick <= limits[1]]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_ylabel("time of LSTM / time of Transformer")
    axes.legend(loc="upper right")
    return figure


# --- Why ---


def work_section(report):
    """Multiplications, how many a microsecond, and the operators of the files."""
    names, columns = [], []
    for row in report["recipes"].values():
        for layer in COLOURS:
            columns.append(row["operators"][layer][-1])
            names += [name for name in columns[-1] if name not in names]
    header = ("operators in the file", *(f"{layer}, {recipe}" for recipe in report["recipes"] for layer in COLOURS))
    table = text_table(header, [[name, *(counts.get(name, 0) or "-" for counts in columns)] for name in names])
    same = all(
        counts == row["operators"][layer][-1]
        for row in report["recipes"].values()
        for layer in COLOURS
        for counts in row["operators"][layer]
    )
    work = report["multiplications"]
    rates = report["recipes"]["float32"]
    first, last = ([work[layer][i] / rates["time_ms"][layer][1][i] / 1e6 for layer in COLOURS] for i in (0, -1))
    text = (
        f"At T = {report['lengths'][0]} the LSTM multiplies {work['LSTM'][0]:,} times and the Transformer "
        f"{work['Transformer'][0]:,} times; at T = {report['lengths'][-1]} {work['LSTM'][-1]:,} and "
        f"{work['Transformer'][-1]:,} times. In float32 the LSTM does {first[0]:.1f} and {last[0]:.1f} billion "
        f"multiplications a second at these lengths, the Transformer {first[1]:.1f} and {last[1]:.1f} billion.\n\n"
        f"The table counts operators as they stand in the file at T = {report['lengths'][-1]}; those in the LSTM's "
        f"loop (WHILE) run once for every turn of it. Counts are {'the same' if same else 'not the same'} at all "
        f"lengths."
    )
    return Section(
        "work",
        "Multiplications, and the operators that do them",
        text,
        table,
        _work_figure(report),
        "Left: multiplications of one sequence. Right: how many of them are done in a second.",
    )


def _work_figure(report):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for layer, colour in COLOURS.items():
        work = np.array(report["multiplications"][layer])
        left.plot(report["lengths"], work / 1e6, marker="o", ms=4, color=colour, label=layer)
        for recipe, row in report["recipes"].items():
            rate = work / np.array(row["time_ms"][layer][1]) / 1e6
            look = {"color": colour, "ls": STYLES[recipe], "marker": MARKS[recipe], "ms": 4}
            right.plot(report["lengths"], rate, label=f"{layer}, {recipe}", **look)
    for axes, label in ((left, "multiplications in millions"), (right, "billion multiplications a second")):
        _by_length(axes, report["lengths"])
        axes.set_ylabel(label)
    _logarithmic(left)
    left.legend()
    right.set_ylim(0, 1.3 * right.get_ylim()[1])  # room for the legend
    right.legend(loc="upper left", ncols=2)
    return figure

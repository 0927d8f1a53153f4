#!/bin/bash
{{directives}}
timer=({{local_timer}})
{{body}}
